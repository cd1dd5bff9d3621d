"""What a recipe may say of its evaluations. Kept apart from the evaluations, so that a recipe loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.part import Part
from ssl_pipeline.pretext.any_views import AnyViews, suited
from ssl_pipeline.pretext.views import Views

INTERVAL = "mean and 95% interval over label draws and the finite test split"
Shots = Annotated[int, Field(ge=1)] | Literal["all"]


class EvaluationPart(Part):
    """What is measured of an encoder. `kind` is the name of its stage and of its file in `evaluate/`."""

    kind: str
    kinds: ClassVar[tuple[str, ...]]
    """The kinds of encoder that it fits."""

    usual_for: ClassVar[tuple[str, ...]]
    """Those of them for which it is what a recipe that names none gets."""
    description: ClassVar[str]
    """What a newcomer reads of its asset."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """What computes it, as Dagster's kinds."""
    needs_labels: ClassVar[bool] = False

    def fitted(self, encoder: EncoderPart) -> Self:
        """With whatever depends on the encoder filled in; raises ValueError where it does not fit it."""
        if encoder.kind not in self.kinds:
            raise ValueError(
                f"{self.kind} is for {' or '.join(self.kinds)} encoders, this one's kind is {encoder.kind}"
            )
        return self

    def metrics(self) -> list[str]:
        """Names of the metrics it yields, `kind/probe/metric/shots`."""
        raise NotImplementedError

    def leading(self) -> str:
        """The metric that promotes where the recipe names none."""
        raise NotImplementedError

    def caption(self, summary: dict[str, Any]) -> str:
        """What a table of its numbers says of them, given the stage's summary."""
        raise NotImplementedError


class Classification(EvaluationPart):
    """How well labels can be read off the frozen features: kNN and a linear probe, few labels to all."""

    kind: Literal["classification"] = "classification"
    kinds: ClassVar[tuple[str, ...]] = ("image", "audio", "video", "text", "image_text", "series")
    usual_for: ClassVar[tuple[str, ...]] = ("image", "audio", "video", "text", "series")
    needs_labels: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "How well human labels can be read off the frozen features, from few labels a class to all, on test data that nothing "
        "else saw; beside a random encoder, the field's simple classic and supervised training on the same labels."
    )
    shots: tuple[Shots, ...] = Field((10, 100, "all"), min_length=1)
    """Labels a class that a probe may see."""
    draws: int = Field(3, ge=3, le=20)
    """Random label subsets a shot count; the interval is over these."""
    k: int = Field(20, ge=1)
    """Neighbours that vote in kNN."""
    temperature: float = Field(0.07, gt=0)
    """Sharpness of their weights, exp(cosine / temperature)."""
    supervised_steps: int = Field(300, ge=0)
    """Fewest training steps of each supervised baseline, which sees its labels three times at least; 0 leaves it out."""
    supervised_views: AnyViews | None = None
    """Augmentation of the supervised baseline; give it what fits the data, or it is beaten too easily."""

    def fitted(self, encoder: EncoderPart) -> Self:
        mild = Views(min_scale=0.4, color=0.2)
        views = suited(self.supervised_views, encoder.kind, "supervised_views", mild)
        return super().fitted(encoder).model_copy(update={"supervised_views": views})

    @field_validator("shots")
    @classmethod
    def each_once(cls, shots: tuple[Shots, ...]) -> tuple[Shots, ...]:
        if len(set(shots)) < len(shots):
            raise ValueError(f"shots {list(shots)} names a count twice: name each once")
        return shots

    def metrics(self) -> list[str]:
        return [f"classification/{probe}/accuracy/{shots}" for probe in ("knn", "linear") for shots in self.shots]

    def leading(self) -> str:
        return f"classification/linear/accuracy/{'all' if 'all' in self.shots else max(self.shots)}"

    def caption(self, summary: dict[str, Any]) -> str:
        return f"test accuracy in percent by labels a class, {summary['test_samples']:,} test samples, {INTERVAL}"


class Pretext(EvaluationPart):
    """The pretext task's own accuracy on the test split: what there is to measure where there are no labels."""

    kind: Literal["pretext"] = "pretext"
    kinds: ClassVar[tuple[str, ...]] = ("image", "video", "text")
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("pytorch",)
    description: ClassVar[str] = (
        "Does the pretext task succeed on test data that nothing was trained on? Beside chance, an untrained network, and controls "
        "that take from the trained one what it should need."
    )
    draws: int = Field(4, ge=2, le=20)
    """Times that labels are drawn anew."""

    def metrics(self) -> list[str]:
        return [self.leading()]

    def leading(self) -> str:
        return "pretext/test/accuracy/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"accuracy in the pretext task in percent, {summary['test_samples']:,} test samples, mean and 95% interval over label "
            "draws and the finite test split"
        )
