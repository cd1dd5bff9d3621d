"""Where samples may come from: the sources that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import Part

FilePath = Annotated[str, Field(min_length=1)]
"""Relative to the project's root, absolute, or from `~`."""


class ImageFolder(Part):
    """A folder of image files, at any depth. The first folder below `path` is a sample's label, where there is one;
    first folders named train, validation (val, valid) and test are splits, and the next one the label."""

    kind: Literal["image_folder"] = "image_folder"
    path: FilePath
    labels: bool = True
    """False takes no labels from the folders' names; those that name splits still do."""


class Archive(Part):
    """A zip, tar or tar.gz of image files, read as if it were a folder and never unpacked to disk. Folders that hold
    everything in the archive (`photos/` in photos.zip) are passed over: they are neither label nor split."""

    kind: Literal["archive"] = "archive"
    path: FilePath
    labels: bool = True


class Table(Part):
    """A CSV or Parquet file with a row a sample."""

    kind: Literal["table"] = "table"
    path: FilePath
    image: str = "image"
    """Column with a file path (relative to the table's folder), or with the image's bytes (Parquet)."""
    label: str | None = None
    group: str | None = None
    """Column whose equal values never stand in two splits: a patient, a speaker, a place."""
    split: str | None = None
    """Column that says train, validation (val, valid) or test."""

    @model_validator(mode="after")
    def columns_differ(self) -> Self:
        named = [column for column in (self.image, self.label, self.group, self.split) if column is not None]
        if twice := [column for column in named if named.count(column) > 1]:
            raise ValueError(
                f"column {twice[0]!r} is named for two purposes: image, label, group and split must differ"
            )
        return self


class Demo(Part):
    """Real images that travel inside a package."""

    kind: Literal["demo"] = "demo"
    name: Literal["mnist_5k"] = "mnist_5k"


Source = Annotated[ImageFolder | Archive | Table | Demo, Field(discriminator="kind")]
