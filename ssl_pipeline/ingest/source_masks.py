"""masks: where images with a class for each of their pixels may come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.ingest.source_files import FilePath, Listed, Patterned


class Masks(Patterned, Listed):
    """Images with a mask each, in a folder or an archive (zip, tar, tar.gz, never unpacked). Encoders and pretext tasks take them
    as any other images; the masks travel beside them, for segmentation. A mask is a PNG whose values (grey, or the numbers of a
    palette's colours) are classes, of its image's size and name: `images/a.jpg` has `masks/a.png`. First folders named train,
    validation (val, valid) and test, above or below these two, are splits.

    An image without a mask, or with one that is damaged, in colours, of another size, or with other values than there are classes,
    is quarantined. `train`, `validation` and `test` are lists of names, a line each; what none of them names is passed over."""

    kind: Literal["masks"] = "masks"
    modality: ClassVar[str] = "image"
    medium: ClassVar[str] = "masks"
    images: FilePath = "images"
    """The folder of images, wherever in the source it lies; or their path with a `*` for what a mask's has as well:
    `photos/*_rgb.jpg`."""
    masks: FilePath = "masks"
    """The folder of masks, or their path with a `*`: `labels/*_mask.png`. A file that both name is a mask."""
    classes: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(min_length=2, max_length=255)
    """What the values 0, 1, 2, ... mean."""
    ignore: int | None = Field(None, ge=0, le=255)
    """The value of pixels of which nothing is said: neither trained on nor counted."""

    @property
    def inside(self) -> dict[str, str | None]:
        return {**super().inside, "images": self.images, "masks": self.masks}

    @model_validator(mode="after")
    def are_told_apart(self) -> Self:
        if self.images == self.masks:
            raise ValueError(f"images and masks are both {self.images!r}: name a folder or a pattern for each")
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"classes name {twice[0]!r} twice: give each its own name")
        return self
