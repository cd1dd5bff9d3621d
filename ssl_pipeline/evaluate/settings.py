"""What a recipe may say of its evaluations. Kept apart from the evaluations, so that a recipe loads without torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from ssl_pipeline.encoders.names import token_patch
from ssl_pipeline.encoders.settings import EncoderPart, TimmPart
from ssl_pipeline.part import Part
from ssl_pipeline.pretext.any_views import AnyViews, suited
from ssl_pipeline.pretext.views import Views

INTERVAL = "mean and 95% interval over label draws and the finite test split"
MILD = Views(min_scale=0.4, color=0.2)
"""Views of images that a network is trained on with labels."""
Percent = Annotated[str, Field(pattern=r"^(100|[0-9]{1,2}(\.[0-9]+)?)%$")]
Shots = Annotated[int, Field(ge=1)] | Literal["all"] | Percent
"""Labels a class, or a share of each class's; 100% is read as all."""


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
    needs_in_data: ClassVar[tuple[str, str] | None] = None
    """A name that the dataset's summary has where the data are such as it measures on, and what to say where they are not."""

    def fitted(self, encoder: EncoderPart) -> Self:
        """With whatever depends on the encoder filled in; raises ValueError where it does not fit it."""
        if encoder.kind not in self.kinds:
            raise ValueError(
                f"{self.kind} is for {' or '.join(self.kinds)} encoders, this one's kind is {encoder.kind}"
            )
        return self

    def task_of(self, encoder: EncoderPart) -> dict[str, Any]:
        """What of an encoder makes it another task, so that numbers do not compare."""
        return {}

    def metrics(self) -> list[str]:
        """Names of the metrics it yields, `kind/probe/metric/shots`."""
        raise NotImplementedError

    def leading(self) -> str:
        """The metric that promotes where the recipe names none."""
        raise NotImplementedError

    def compared(self) -> tuple[str, str]:
        """The leading metric's name, and the one under which the supervised baseline has it."""
        return self.leading(), self.leading().replace("/linear/", "/supervised/")

    def caption(self, summary: dict[str, Any]) -> str:
        """What a table of its numbers says of them, given the stage's summary."""
        raise NotImplementedError


class LabelSubsets(EvaluationPart):
    """Base of what is measured at few labels a class and at all, several times; the same subsets for every method."""

    kinds: ClassVar[tuple[str, ...]] = ("image", "audio", "video", "text", "image_text", "series")
    needs_labels: ClassVar[bool] = True
    shots: tuple[Shots, ...] = Field((10, 100, "all"), min_length=1)
    """How many labels of the training split may be seen: so many a class, a share of each class's such as 1%, or all."""
    draws: int = Field(5, ge=3, le=20)
    """Random label subsets a shot count; the interval is over these."""

    @field_validator("shots")
    @classmethod
    def each_once(cls, shots: tuple[Shots, ...]) -> tuple[Shots, ...]:
        shots = tuple("all" if s == "100%" else s for s in shots)
        if none := [s for s in shots if isinstance(s, str) and s != "all" and not share(s)]:
            raise ValueError(f"shots {none[0]} is no label at all: raise it")
        if len(set(shots)) < len(shots):
            raise ValueError(f"shots {list(shots)} names a count twice: name each once")
        return shots

    @property
    def probes_named(self) -> tuple[str, ...]:
        """The second part of its metrics' names."""
        raise NotImplementedError

    def metrics(self) -> list[str]:
        return [
            f"{self.kind}/{probe}/{metric}/{named(shots)}"
            for metric in ("accuracy", "macro_f1")
            for probe in self.probes_named
            for shots in self.shots
        ]

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"test accuracy in percent by labels a class, choices on a labelled validation split, {summary['test_samples']:,} test "
            f"samples, {INTERVAL}"
        )


def share(percent: str) -> float:
    """`1%` -> 0.01"""
    return float(percent.removesuffix("%")) / 100


def named(shots: Shots) -> str:
    """As in the names of metrics, in which MLflow takes no percent sign: `10`, `1pct`, `all`."""
    return str(shots).replace("%", "pct")


def most_of(shots: tuple[Shots, ...]) -> Shots:
    """All, or else the largest share, or else the largest count."""
    return max(shots, key=lambda s: (0, s) if isinstance(s, int) else (1, math.inf if s == "all" else share(s)))


class Classification(LabelSubsets):
    """How well labels can be read off the frozen features: kNN and a linear probe, few labels to all."""

    kind: Literal["classification"] = "classification"
    usual_for: ClassVar[tuple[str, ...]] = ("image", "audio", "video", "text", "series")
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "How well human labels can be read off the frozen features, from few labels a class to all, on test data that nothing "
        "else saw; beside a random encoder, the field's simple classic and supervised training on the same labels. Of videos "
        "also from a single frame, and from shuffled frames."
    )
    probes: tuple[Literal["knn", "linear", "attentive"], ...] = ("knn", "linear")
    """What reads them; `attentive` sees the tokens of a transformer, not their mean alone."""
    k: int = Field(20, ge=1)
    """Neighbours that vote in kNN."""
    temperature: float = Field(0.07, gt=0)
    """Sharpness of their weights, exp(cosine / temperature)."""
    supervised_steps: int = Field(300, ge=0)
    """Fewest training steps of each supervised baseline, which sees its labels three times at least; 0 leaves it out."""
    supervised_views: AnyViews | None = None
    """Augmentation of the supervised baseline; give it what fits the data, or it is beaten too easily."""

    def fitted(self, encoder: EncoderPart) -> Self:
        network = encoder if isinstance(encoder, TimmPart) else getattr(encoder, "image", None)
        if "attentive" in self.probes and network and token_patch(network) is None:
            raise ValueError(
                f"probes: attentive reads the tokens of a transformer, and {network.backbone!r} has none: leave it out"
            )
        views = suited(self.supervised_views, encoder.kind, "supervised_views", MILD)
        return super().fitted(encoder).model_copy(update={"supervised_views": views})

    @field_validator("probes")
    @classmethod
    def linear_among_them(cls, probes: tuple[str, ...]) -> tuple[str, ...]:
        if "linear" not in probes:
            raise ValueError(f"probes {list(probes)} lacks linear, which the tables and curves compare: add it")
        return tuple(dict.fromkeys(probes))

    @property
    def probes_named(self) -> tuple[str, ...]:
        return self.probes

    def leading(self) -> str:
        return f"classification/linear/accuracy/{named(most_of(self.shots))}"

    def caption(self, summary: dict[str, Any]) -> str:
        if "one frame" not in summary.get("controls", []):
            return super().caption(summary)
        return (
            f"{super().caption(summary)}; one frame and shuffled frames are controls: the same encoder, and probes trained anew, "
            "on clips that repeat their middle frame or show their frames in random order; what is not lost with the first needs "
            "no more than a picture, and with the second no order (a mean over frames has none to lose)"
        )


class FineTuning(LabelSubsets):
    """How far the whole encoder gets when it is trained on with a linear layer on the same label subsets."""

    kind: Literal["fine_tuning"] = "fine_tuning"
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("pytorch",)
    description: ClassVar[str] = (
        "How good a classifier the pretrained encoder becomes when all of it is trained on few labels a class to all; beside the "
        "same network trained from scratch with the same labels, views and steps."
    )
    draws: int = Field(3, ge=3, le=20)
    """Random label subsets a shot count; the interval is over these."""
    steps: int = Field(300, ge=1)
    """Fewest training steps; every label is seen three times at least."""
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((1e-3, 5e-3), min_length=1)
    """The one that is best on validation with the first label subset of a shot count is used for all subsets of it."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Factor of the learning rate from each block to the one before it; training from scratch has none."""
    views: AnyViews | None = None
    """Augmentation, of training from scratch, too."""

    def fitted(self, encoder: EncoderPart) -> Self:
        views = suited(self.views, encoder.kind, "views", MILD)
        return super().fitted(encoder).model_copy(update={"views": views})

    @property
    def probes_named(self) -> tuple[str, ...]:
        return ("full",)

    def leading(self) -> str:
        return f"fine_tuning/full/accuracy/{named(most_of(self.shots))}"


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
