"""What a recipe may say of the evaluation by neighbours and clusters. Loads without torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.evaluate.settings import Classification, EvaluationPart


class Clustering(EvaluationPart):
    """Whether what belongs together lies together, before any probe is trained: neighbours and k-means."""

    kind: Literal["clustering"] = "clustering"
    kinds: ClassVar[tuple[str, ...]] = Classification.kinds
    usual_for: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "Do test samples of one class lie together in the frozen features? The nearest ones of each sample, and k-means with as "
        "many clusters as classes: labels only judge, none is learnt from. Beside a random encoder, the raw input and chance."
    )
    seeds: int = Field(5, ge=2, le=20)
    """Starts of k-means; the interval is over these."""
    random_encoders: int = Field(3, ge=2, le=20)
    """Fresh encoders whose mean is the baseline."""
    test_samples: int = Field(2000, ge=10, le=5000)
    """At most so many of the test split's labelled samples, drawn at random: every pair of them is compared."""

    def metrics(self) -> list[str]:
        return [f"clustering/{name}/all" for name in ("neighbours/precision_at_1", "neighbours/map")] + [
            f"clustering/kmeans/{name}/all" for name in ("nmi", "ari", "matched_accuracy")
        ]

    def leading(self) -> str:
        return "clustering/neighbours/map/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"in percent, {summary['test_samples']:,} test samples of {len(summary['classes'])} classes; neighbours by cosine, "
            "each sample a query among the others; k-means with as many clusters as classes, matched to them one to one for its "
            "accuracy; mean and 95% interval over starts and the finite test split"
        )
