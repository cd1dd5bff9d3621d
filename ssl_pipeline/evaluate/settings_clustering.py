"""What a recipe may say of the evaluation by neighbours and clusters. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.evaluate.settings import Classification, EvaluationPart

VIDEO_DEPTHS = (1, 5, 10, 20, 50)
"""Xu et al. 2019 (VCOP), section 4.3."""


class Clustering(EvaluationPart):
    """Whether what belongs together lies together, before any probe is trained: neighbours and k-means."""

    kind: Literal["clustering"] = "clustering"
    kinds: ClassVar[tuple[str, ...]] = Classification.kinds
    usual_for: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "Do test samples of one class lie together in the frozen features? The nearest ones of each sample, and k-means with as "
        "many clusters as classes: labels only judge, none is learnt from. Of videos also the nearest training clips of "
        "each test clip. Beside a random encoder, the raw input and chance."
    )
    seeds: int = Field(5, ge=2, le=20)
    """Starts of k-means; the interval is over these."""
    random_encoders: int = Field(3, ge=2, le=20)
    """Fresh encoders whose mean is the baseline."""
    test_samples: int = Field(2000, ge=10, le=5000)
    """At most so many of the test split's labelled samples, drawn at random: every pair of them is compared."""
    recall_at: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Depths k of recall@k, where test samples query the training split; those that it is too small for are left out. By default
    1, 5, 10, 20 and 50 of videos, whose usual protocol it is, and none of other data."""

    def fitted(self, encoder: EncoderPart) -> Self:
        usual = VIDEO_DEPTHS if encoder.kind == "video" else ()
        depths = tuple(sorted(set(usual if self.recall_at is None else self.recall_at)))
        return super().fitted(encoder).model_copy(update={"recall_at": depths})

    def metrics(self) -> list[str]:
        neighbours = ("precision_at_1", "map", *(f"recall_at_{k}" for k in self.recall_at or ()))
        return [f"clustering/neighbours/{name}/all" for name in neighbours] + [
            f"clustering/kmeans/{name}/all" for name in ("nmi", "ari", "matched_accuracy")
        ]

    def leading(self) -> str:
        return "clustering/neighbours/map/all"

    def caption(self, summary: dict[str, Any]) -> str:
        among = (
            f"; R@k: one of its class is among the k nearest of {known:,} training samples"
            if (known := summary.get("training_samples"))
            else ""
        )
        return (
            f"in percent, {summary['test_samples']:,} test samples of {len(summary['classes'])} classes; neighbours by cosine, "
            f"each sample a query among the others{among}; k-means with as many clusters as classes, matched to them one to one "
            "for its accuracy; mean and 95% interval over starts and the finite test split"
        )
