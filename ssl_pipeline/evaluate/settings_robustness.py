"""What a recipe may say of the evaluation under common corruptions. Loads without torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.evaluate.settings import MILD, EvaluationPart
from ssl_pipeline.pretext.any_views import AnyViews, suited

SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
    "gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "spatter",
    "brightness", "contrast", "saturate", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""Noise, blur, weather, digital: ImageNet-C's 15 and its 4 for validation, by their names there."""


class Robustness(EvaluationPart):
    """What noise, blur, weather and compression leave of the linear probe's accuracy."""

    kind: Literal["robustness"] = "robustness"
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn", "opencv")
    description: ClassVar[str] = (
        "What is left of a linear probe's accuracy under ImageNet-C's 19 corruptions at five severities, after training on clean "
        "images alone; beside a random encoder and supervised training from scratch."
    )
    corruptions: tuple[Literal[CORRUPTIONS], ...] = Field(CORRUPTIONS, min_length=1)  # type: ignore[valid-type]
    """Those that may befall the data; leave out what cannot, or takes long."""
    test_samples: int = Field(500, ge=20, le=5000)
    """At most so many labelled test images, drawn at random: each is corrupted 95 times."""
    supervised_steps: int = Field(300, ge=0)
    """Fewest training steps of the supervised baseline, which sees all labels; 0 leaves it out."""
    supervised_views: AnyViews | None = None
    """Its augmentation."""

    def fitted(self, encoder: EncoderPart) -> Self:
        views = suited(self.supervised_views, encoder.kind, "supervised_views", MILD)
        return super().fitted(encoder).model_copy(update={"supervised_views": views})

    def task_of(self, encoder: EncoderPart) -> dict[str, Any]:
        return encoder.model_dump(include={"image_size"})

    def metrics(self) -> list[str]:
        return [self.leading(), "robustness/linear/relative/all"]

    def leading(self) -> str:
        return "robustness/linear/mean_accuracy/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"in percent, {summary['test_samples']:,} test images under {len(self.corruptions)} corruptions at five severities "
            f"(made for images of 224 pixels, so harsher to smaller ones; {summary['corrupted_as']}): the mean accuracy, the clean "
            "one, and the first as a share of the second, which guessing keeps whole; 95% interval over test images"
        )
