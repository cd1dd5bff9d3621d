"""Where samples may come from: the sources that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.ingest.source_files import FilePath, Patterned
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.part import Part


class Files(Patterned):
    """What sources of files, one a sample, have in common."""

    path: FilePath
    labels: bool = True
    """False takes no labels from the folders' names; those that name splits still do."""


class Folder(Files):
    """A folder of files, at any depth. The first folder below `path` is a sample's label, where there is one;
    first folders named train, validation (val, valid) and test are splits, and the next one the label."""

    kind: Literal["image_folder", "audio_folder", "video_folder"] = "image_folder"

    @property
    def modality(self) -> str:
        return self.kind.removesuffix("_folder")


class Archive(Files):
    """A zip, tar or tar.gz of files, read as if it were a folder and never unpacked to disk. Folders that hold
    everything in the archive (`photos/` in photos.zip) are passed over: they are neither label nor split."""

    kind: Literal["archive"] = "archive"
    modality: Literal["image", "audio", "video"] = "image"


class Table(Part):
    """A CSV or Parquet file with a row a sample."""

    kind: Literal["table"] = "table"
    path: FilePath
    modality: Literal["image", "audio", "video"] = "image"
    file: str = ""
    """Column with a file path (relative to the table's folder), or with the file's bytes (Parquet); by default it is named
    as the modality."""
    label: str | None = None
    group: str | None = None
    """Column whose equal values never stand in two splits: a patient, a speaker, a place."""
    split: str | None = None
    """Column that says train, validation (val, valid) or test."""

    @property
    def content(self) -> str:
        return self.file or self.modality

    @model_validator(mode="after")
    def columns_differ(self) -> Self:
        named = [column for column in (self.content, self.label, self.group, self.split) if column is not None]
        if twice := [column for column in named if named.count(column) > 1]:
            raise ValueError(f"column {twice[0]!r} is named for two purposes: file, label, group and split must differ")
        return self


DEMOS = {
    "mnist_5k": "image", "instruments": "audio", "sample_videos": "video", "lee_news": "text", "wikipedia_stems": "text",
    "newsgroups": "text", "movielens_titles": "text", "emoji": "image_text", "movielens_100k": "interactions",
    "smartwatch": "series", "japanese_vowels": "series",
    "trees": "objects", "brain": "masks", "messages_en_fr": "translation",
}  # fmt: skip
"""The demo data there is, with its medium, which is its modality or, of images with boxes, `objects`, with masks, `masks`, of texts
with another side, `translation`; read by `demo_MEDIUM.py`."""


class Demo(Part):
    """Real data that travels inside a package."""

    kind: Literal["demo"] = "demo"
    name: Literal[tuple(DEMOS)] = "mnist_5k"  # type: ignore[valid-type]

    @property
    def medium(self) -> str:
        return DEMOS[self.name]

    @property
    def modality(self) -> str:
        return {"objects": "image", "masks": "image", "translation": "text"}.get(self.medium, self.medium)


Source = Annotated[
    Folder | Archive | Table | Text | CaptionTable | SeriesTable | InteractionsSource | Coco | Voc | Masks | Demo,
    Field(discriminator="kind"),
]
