"""What a recipe may say of classification with several labels a sample."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.evaluate.settings import INTERVAL, MILD, LabelSubsets, Shots, most_of, named
from ssl_pipeline.pretext.any_views import AnyViews, suited


class MultiLabel(LabelSubsets):
    """How well several labels a sample can be read off the frozen features, from a share of the training split to all."""

    kind: Literal["multi_label"] = "multi_label"
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "How well the labels of samples that have several can be read off the frozen features, on test data that nothing else saw; "
        "beside a random encoder, guessing by how common each label is, and supervised training on the same labels."
    )
    separator: str = Field("|", min_length=1)
    """What stands between the labels of a sample in the dataset's label."""
    shots: tuple[Shots, ...] = Field(("10%", "all"), min_length=1)
    """Shares of the labelled training samples that may be seen."""
    draws: int = Field(3, ge=3, le=20)
    """Random subsets a share; the interval is over these."""
    supervised_steps: int = Field(300, ge=0)
    """Fewest training steps of each supervised baseline, which sees its samples three times at least; 0 leaves it out."""
    supervised_views: AnyViews | None = None
    """Augmentation of the supervised baseline."""

    @field_validator("shots")
    @classmethod
    def are_shares(cls, shots: tuple[Shots, ...]) -> tuple[Shots, ...]:
        if counts := [one for one in shots if isinstance(one, int)]:
            raise ValueError(f"shots {counts[0]}: samples with several labels are drawn by share: write 1% or all")
        return shots

    def fitted(self, encoder: EncoderPart) -> Self:
        views = suited(self.supervised_views, encoder.kind, "supervised_views", MILD)
        return super().fitted(encoder).model_copy(update={"supervised_views": views})

    def metrics(self) -> list[str]:
        return [f"multi_label/linear/{measure}/{named(shots)}" for measure in ("map", "auc") for shots in self.shots]

    def leading(self) -> str:
        return f"multi_label/linear/map/{named(most_of(self.shots))}"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"mean average precision and area under the ROC curve in percent, mean over {len(summary['classes'])} labels, "
            f"{summary['test_samples']:,} test samples, {INTERVAL}"
        )
