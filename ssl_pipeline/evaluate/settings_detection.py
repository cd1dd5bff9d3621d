"""What a recipe may say of the evaluation by object detection."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.evaluate.settings import EvaluationPart

MEASURES = ("ap", "ap50", "ap75")


class Detection(EvaluationPart):
    """How well objects are found and named in the test images, by a detector that starts from the encoder. The dataset needs
    boxes: a source `coco` or `voc`."""

    kind: Literal["detection"] = "detection"
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("pytorch",)
    needs_in_data: ClassVar[tuple[str, str]] = (
        "objects", "its images have no boxes, which detection needs: use a source of kind coco or voc"
    )  # fmt: skip
    description: ClassVar[str] = (
        "How well objects are found in test images that nothing else saw: a detector on the encoder, trained on the same boxes "
        "for the same number of steps as one that starts from random weights, which is supervised training from scratch."
    )
    head: Literal["faster_rcnn", "retinanet", "fcos"] = "faster_rcnn"
    """Two stages, or one with anchors, or one without."""
    frozen: bool = False
    """True trains the detector's own layers alone, on the encoder's weights as they are (batch statistics are measured anew);
    false fine-tunes the encoder as well."""
    steps: int = Field(300, ge=1)
    batch_size: int = Field(8, ge=1)
    image_size: int = Field(256, ge=32, le=2048)
    """Pixels of an image's shorter side in the detector. Training sees square crops of that side, the test whole images."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW, with warm-up and cosine; the same for every method, and chosen by none."""
    pyramid_dim: int = Field(64, ge=16, le=512)
    """Channels of the feature pyramid; the literature's is 256."""
    flip: bool = True
    """Mirror half of the training images; not where left and right mean something."""
    seeds: int = Field(3, ge=3, le=20)
    """Trainings; the interval is over them. Each draws the detector's own layers, the crops and the order of images anew, and of
    the random encoder its weights."""

    @model_validator(mode="after")
    def heads_norm_in_groups(self) -> Self:
        if self.head != "faster_rcnn" and self.pyramid_dim % 32:
            raise ValueError(
                f"pyramid_dim {self.pyramid_dim} with head {self.head}: its layers are normalised in 32 groups: use "
                f"{max(32, round(self.pyramid_dim / 32) * 32)}"
            )
        return self

    @property
    def probe(self) -> str:
        return "frozen" if self.frozen else "fine_tuned"

    def metrics(self) -> list[str]:
        return [f"detection/{self.probe}/{measure}/all" for measure in MEASURES]

    def leading(self) -> str:
        return f"detection/{self.probe}/ap50/all"

    def caption(self, summary: dict[str, Any]) -> str:
        scratch = " is frozen, too" if self.frozen else ", fine-tuned alike, is supervised training from scratch"
        counted = f"{summary['test_objects']:,} objects in {summary['test_samples']:,} test images"
        return (
            f"average precision of {self.head.replace('_', ' ')} in percent as COCO counts it, {counted}, mean and 95% interval "
            f"over {self.seeds} trainings (not over the test images); the random encoder{scratch}"
        )
