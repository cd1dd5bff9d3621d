"""Tables of images and captions, wherever they lie: rows of CSV, TSV, JSON lines or Parquet, gathered by image.

In memory are the captions of the whole table, never the images.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLIT_NAMES
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.table import LONGEST_CELL, text
from ssl_pipeline.part import PipelineError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Of files that are taken for tables."""
MAX_CAPTIONS = 100
"""Captions of one image that are looked at; further ones are counted."""
MAX_RAW = 1 << 16
"""Characters of a caption that are looked at."""
MAX_LINE = 1 << 24
"""Bytes of a line of JSON."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table that can be opened again and again; `name` is for messages."""

    name: str
    open: Callable[[], BinaryIO]

    def rows(self, wanted: list[str]) -> Iterator[tuple[int, Row]]:
        """(number from 1, the wanted columns) of each row. Raises PipelineError where the table is malformed or has no such
        column."""
        with self.explained(), self.open() as file:
            start = file.read(4).removeprefix(codecs.BOM_UTF8)
            file.seek(0)
            if start == b"PAR1":
                reading = self._parquet(file, wanted)
            elif start.lstrip()[:1] == b"{":
                reading = self._json(file, wanted)
            else:
                reading = self._csv(file, wanted)
            yield from enumerate(reading, start=1)

    def _parquet(self, file: BinaryIO, wanted: list[str]) -> Iterator[Row]:
        # buffered and unthreaded: a column chunk may hold gigabytes of images, and must not be read ahead
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            self.require(wanted, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=32, columns=wanted, use_threads=False):
                yield from batch.to_pylist()

    def _csv(self, file: BinaryIO, wanted: list[str]) -> Iterator[Row]:
        lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.DictReader(lines, delimiter="\t" if self.name.lower().endswith(".tsv") else ",")
        self.require(wanted, reader.fieldnames or [])
        yield from reader

    def _json(self, file: BinaryIO, wanted: list[str]) -> Iterator[Row]:
        first = True
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise ValueError("a line of JSON above 16 MiB")
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line of JSON that is no object")
            if first:
                self.require(wanted, row)
            first = False
            yield {column: row.get(column) for column in wanted}

    def require(self, wanted: list[str], known: Any) -> None:
        known = [str(column) for column in known]
        for column in wanted:
            if column not in known:
                listed = ", ".join(known[:20]) or "none"
                raise PipelineError(
                    f"{self.name}: has no column {column!r}{did_you_mean(column, known)} (columns: {listed})"
                )

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (csv.Error, pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise PipelineError(f"{self.name}: is malformed: {' '.join(str(error).split())[:200]}") from error


@dataclass
class Entry:
    """One image of a table and all that its rows say of it."""

    name: str
    row: int
    """The first that names it."""
    inline: bool = False
    """Whether its bytes stand in the table."""
    captions: list[str] = field(default_factory=list)
    dropped: int = 0
    """Captions beyond the hundredth."""
    label: str | None = None
    group: str | None = None
    split: str | None = None
    fault: str | None = None


Key = str | bytes


def entries_of(table: Table, source: CaptionTable) -> dict[Key, Entry]:
    """Every image of the table, by its normalised name or by a hash of its bytes, in the order of their first rows.

    Raises PipelineError for a missing column or an unknown split; what is wrong with one image alone is its `fault`.
    """
    found: dict[Key, Entry] = {}
    for number, row in table.rows(source.columns):
        value, inline = image_cell(row[source.image])
        name = value if isinstance(value, str) else f"row {number}"
        key: Key
        if inline:
            assert isinstance(value, bytes)
            key = blake2b(value, digest_size=16).digest()
        else:
            key = "/".join(PurePosixPath(name.replace("\\", "/")).parts)
        fault = None if value else "no image in this row"
        entry = found.setdefault(key, Entry(name, number, inline, fault=fault))
        for caption in caption_cell(row[source.caption]):
            if len(entry.captions) < MAX_CAPTIONS:
                entry.captions.append(caption[:MAX_RAW])
            else:
                entry.dropped += 1
        for purpose, column in (("label", source.label), ("group", source.group), ("split", source.split)):
            if column is None:
                continue
            said = text(row[column])
            if purpose == "split" and said is not None:
                said = split_named(said, number, table.name)
            before = getattr(entry, purpose)
            if before is None:
                setattr(entry, purpose, said)
            elif said not in (None, before):
                entry.fault = f"rows disagree: {purpose} {before!r} and {said!r}"
    return found


def image_cell(value: Any) -> tuple[str | bytes | None, bool]:
    """What an image's cell holds, a name or bytes or nothing, and whether it is bytes; in a struct as `datasets` writes
    them, bytes come first."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    usable = value if isinstance(value, (str, bytes)) and value else None
    return usable, isinstance(usable, bytes)


def caption_cell(value: Any) -> list[str]:
    """The captions of one row: none, one or several."""
    values = value if isinstance(value, list) else [value]
    return [said for one in values if not isinstance(one, (dict, list, bytes)) and (said := text(one)) is not None]


def split_named(name: str, number: int, table: str) -> str:
    """Raises PipelineError where it is no split's name."""
    if name.strip().lower() not in SPLIT_NAMES:
        raise PipelineError(f"{table}: row {number}: split {name!r} is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.strip().lower()]
