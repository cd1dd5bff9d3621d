"""image_text: where images with captions may come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import Part

Column = Annotated[str, Field(min_length=1)]


class CaptionTable(Part):
    """Images and what is said of them: a table (CSV, TSV, JSON lines or Parquet) with a row a pair of image and caption, so that
    an image with five captions has five rows, or with a list of captions in a row. `path` is that table, or a folder or an
    archive (zip, tar, tar.gz, never unpacked) that holds it beside the images. Images that it does not name are passed over."""

    kind: Literal["image_text"] = "image_text"
    modality: ClassVar[str] = "image_text"
    path: Annotated[str, Field(min_length=1)]
    """Relative to the project's root, absolute, or from `~`."""
    captions: str | None = None
    """The table's name inside the folder or archive; by default the only one there."""
    images: str | None = None
    """Folder that the names of images are relative to, seen from the table; by default the table's own or one right below it,
    whichever holds them."""
    image: Column = "image"
    """Column with an image's file name, or with its bytes (Parquet)."""
    caption: Column = "caption"
    """Column with a caption or a list of them."""
    label: Column | None = None
    group: Column | None = None
    """Column whose equal values never stand in two splits: an album, a product, a photographer."""
    split: Column | None = None
    """Column that says train, validation (val, valid) or test."""

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        named = (self.image, self.caption, self.label, self.group, self.split)
        return [column for column in named if column is not None]

    @model_validator(mode="after")
    def columns_differ(self) -> Self:
        if twice := [column for column in self.columns if self.columns.count(column) > 1]:
            raise ValueError(
                f"column {twice[0]!r} is named for two purposes: image, caption, label, group and split must differ"
            )
        return self

    @model_validator(mode="after")
    def stays_inside(self) -> Self:
        for field in ("captions", "images"):
            value = getattr(self, field)
            if value and (value.startswith("/") or ".." in value.replace("\\", "/").split("/")):
                raise ValueError(f"{field} {value!r} leads out of the source: give a path inside it")
        return self
