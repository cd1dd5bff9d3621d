"""What a recipe may say of the evaluation by semantic segmentation. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ssl_pipeline.evaluate.settings import EvaluationPart, most_of

MEASURES = ("miou", "pixel_accuracy")
Count = Annotated[int, Field(ge=1)] | Literal["all"]


class Segmentation(EvaluationPart):
    """How well the class of each pixel can be read off the frozen features of its place, by a linear layer. The dataset needs
    masks: a source `masks`."""

    kind: Literal["segmentation"] = "segmentation"
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    needs_in_data: ClassVar[tuple[str, str]] = (
        "masks", "its images have no masks, which segmentation needs: use a source of kind masks"
    )  # fmt: skip
    description: ClassVar[str] = (
        "How well the class of each pixel can be read off the frozen features of its place, from few images with masks to all, on "
        "test images that nothing else saw; beside a random encoder, raw pixels, the commonest class and supervised training."
    )
    images: tuple[Count, ...] = Field((10, "all"), min_length=1)
    """How many training images with their masks may be seen."""
    draws: int = Field(3, ge=3, le=20)
    """Random subsets of so many images, the same for every method; the interval is over these."""
    stage: int = Field(-1, ge=-100, le=-1)
    """Which map of features is read: -1 is the network's last, a ViT's last patch tokens; -2 the one before, which in a ResNet is
    twice as fine, and so on."""
    locations: int = Field(20_000, ge=100)
    """Most places of the training images that the linear layer learns from, drawn at random, as many of each image."""
    supervised_steps: int = Field(200, ge=0)
    """Training steps of each supervised baseline; 0 leaves it out."""
    flip: bool = True
    """Mirror half of the supervised baseline's images; not where left and right mean something."""

    @field_validator("images")
    @classmethod
    def each_once(cls, images: tuple[Count, ...]) -> tuple[Count, ...]:
        if len(set(images)) < len(images):
            raise ValueError(f"images {list(images)} names a count twice: name each once")
        return images

    @property
    def most(self) -> Any:
        return most_of(self.images)

    def metrics(self) -> list[str]:
        return [f"segmentation/linear/{measure}/{count}" for measure in MEASURES for count in self.images]

    def leading(self) -> str:
        return f"segmentation/linear/miou/{self.most}"

    def compared(self) -> tuple[str, str]:
        return self.leading(), self.leading()

    def caption(self, summary: dict[str, Any]) -> str:
        height, width = summary["map"]
        units = f", whole groups ({summary['test_groups']}) at a time" if summary["test_groups"] else ""
        return (
            f"mean intersection over union of {len(summary['classes'])} classes and share of right pixels in percent, by training "
            f"images ({summary['train_images']:,} in all), {summary['test_samples']:,} test images of {summary['side']} pixels, "
            f"maps of {height} x {width} places, penalty chosen on the validation split; mean and 95% interval over draws of "
            f"training images and a bootstrap over the test images{units}"
        )
