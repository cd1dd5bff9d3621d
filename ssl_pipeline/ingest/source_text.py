"""text: where documents may come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssl_pipeline.part import Part

Column = Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=1, strict=True)]
"""A column's name or, in a table without a header, its number, counted from 1."""


class Text(Part):
    """Documents in a text file, a folder of text files, or a table (CSV, TSV, JSON lines, Parquet). Any of them may lie in a
    zip or tar, which is read without unpacking, and any file may be compressed with gzip."""

    kind: Literal["text"] = "text"
    path: Annotated[str, Field(min_length=1)]
    """Relative to the project's root, absolute, or from `~`."""
    member: str | None = None
    """The file or folder inside the archive at `path`; by default all of it is a folder."""
    format: Literal["auto", "lines", "csv", "tsv", "jsonl", "parquet"] = "auto"
    """How a file is read; auto goes by its name: .csv, .tsv, .jsonl, .ndjson and .parquet are tables, others lines."""
    per: Literal["file", "line"] | None = None
    """What a document is; by default a line of a single file, and a file of a folder."""
    labels: bool = True
    """In a folder, the first folder below it is a document's label; False takes none."""
    text: Column | Annotated[tuple[Column, ...], Field(min_length=1)] = "text"
    """The table's column that holds the text; several are joined by a line break."""
    target: Column | None = None
    """Column with the other side of a pair, such as a translation."""
    parallel: str | None = None
    """Instead of a column: a file whose line n is the other side of line n; in an archive, a member of it."""
    label: Column | None = None
    group: Column | None = None
    """Column whose equal values never stand in two splits: an author, a conversation, a book."""
    split: Column | None = None
    """Column that says train, validation (val, valid) or test."""
    header: bool = True
    """False where a CSV's first row is data already; columns are then given by number."""
    encoding: str | None = None
    """By default UTF-8, and documents that are not go to quarantine."""

    @property
    def modality(self) -> str:
        return "text"

    @property
    def texts(self) -> tuple[str | int, ...]:
        return self.text if isinstance(self.text, tuple) else (self.text,)

    @property
    def columns(self) -> dict[str, str | int]:
        """The columns with one purpose each, by that purpose."""
        named = {"target": self.target, "label": self.label, "group": self.group, "split": self.split}
        return {purpose: column for purpose, column in named.items() if column is not None}

    @field_validator("encoding")
    @classmethod
    def encoding_exists(cls, name: str | None) -> str | None:
        try:
            "".encode(name or "utf-8")
        except LookupError as error:
            raise ValueError(f"{error}: name one as Python does, such as cp1252 or utf-16") from error
        return name

    @model_validator(mode="after")
    def columns_differ(self) -> Self:
        named = [*self.texts, *self.columns.values()]
        if twice := [column for column in named if named.count(column) > 1]:
            raise ValueError(f"column {twice[0]!r} is named twice: text, target, label, group and split must differ")
        if wrong := [column for column in named if isinstance(column, int) == self.header]:
            cure = "write its name, or set header: false" if self.header else "give its number, counted from 1"
            raise ValueError(f"column {wrong[0]!r} in a table with{'' if self.header else 'out'} a header: {cure}")
        return self

    @model_validator(mode="after")
    def parallel_is_by_line(self) -> Self:
        if self.parallel and self.target:
            raise ValueError("both target and parallel name the other side of pairs: keep one of them")
        if self.parallel and self.per == "file":
            raise ValueError("parallel pairs the lines of two files: set per: line")
        return self
