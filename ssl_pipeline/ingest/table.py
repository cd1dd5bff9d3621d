"""table: a CSV or Parquet file with a row a sample, read in small batches."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLIT_NAMES, Item, Reading, read_file, unusable
from ssl_pipeline.ingest.sources import Table
from ssl_pipeline.part import PipelineError, did_you_mean

Row = dict[str, Any]
LONGEST_CELL = 131_072
"""Characters. Python's csv has one limit for the whole process, and documents have a higher one."""


def read(source: Table, path: Path) -> Reading:
    """Raises PipelineError where the table is missing or malformed, has no such column, or names an unknown split."""
    wanted = [c for c in (source.content, source.label, source.group, source.split) if c is not None]
    known = columns(path)
    for column in wanted:
        if column not in known:
            raise PipelineError(
                f"{path}: has no column {column!r}{did_you_mean(column, known)} (columns: {', '.join(known) or 'none'})"
            )
    splits = (
        {split_in_cell(row[source.split], n, path) for n, row in rows(path, [source.split])} if source.split else set()
    )

    def items() -> Iterator[Item]:
        folder = path.parent.resolve()
        for number, row in rows(path, wanted):
            name, load = file_in_cell(row[source.content], number, folder)
            label, group = (text(row[c]) if c else None for c in (source.label, source.group))
            yield Item(
                name, load, label, group, split_in_cell(row[source.split], number, path) if source.split else None
            )

    total = pq.read_metadata(path).num_rows if is_parquet(path) else None
    return Reading(items(), frozenset(s for s in splits if s), total)


def named_files(source: Table, path: Path) -> Iterator[Path]:
    """The files inside the table's folder that its image column names."""
    folder = path.parent.resolve()
    if source.content in columns(path):
        for _, row in rows(path, [source.content]):
            value = row[source.content]
            value = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
            if isinstance(value, str) and (file := inside(value, folder)):
                yield file


def is_parquet(path: Path) -> bool:
    """By its first bytes. Raises PipelineError where the table is missing or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: there is no such table: correct the source's path") from error
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from error


def columns(path: Path) -> list[str]:
    if is_parquet(path):
        with _explained(path):
            return list(pq.read_schema(path).names)
    with _explained(path), open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return next(csv.reader(file), [])


def rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, Row]]:
    """(number from 1, the wanted columns) of each row, in the table's order."""
    with _explained(path):
        yield from enumerate(_parquet_rows(path, wanted) if is_parquet(path) else _csv_rows(path), start=1)


def text(value: Any) -> str | None:
    """A cell as a string; null, NaN and nothing are None, and 3.0 is 3 (integers become floats beside a null)."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _csv_rows(path: Path) -> Iterator[Row]:
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        csv.field_size_limit(LONGEST_CELL)
        yield from csv.DictReader(file)


def _parquet_rows(path: Path, wanted: list[str]) -> Iterator[Row]:
    # buffered and unthreaded: a column chunk may hold gigabytes of files, and must not be read ahead
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=32, columns=wanted, use_threads=False):
            yield from batch.to_pylist()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: is malformed: {' '.join(str(error).split())[:200]}") from error


def split_in_cell(value: Any, number: int, path: Path) -> str | None:
    name = text(value)
    if name is not None and name.strip().lower() not in SPLIT_NAMES:
        raise PipelineError(f"{path}: row {number}: split {name!r} is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.strip().lower()] if name else None


def file_in_cell(value: Any, number: int, folder: Path) -> tuple[str, Callable[[], bytes]]:
    """(source name, load) of a cell: bytes, a path, or the two in a struct as `datasets` writes them."""
    name = f"row {number}"
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return name, partial(bytes, value)
    if not isinstance(value, str) or not value:
        return name, unusable("no file in this row")
    file = inside(value, folder)
    return value, partial(read_file, file) if file else unusable("outside the table's folder")


def inside(value: str, folder: Path) -> Path | None:
    """The file of that name, if it and whatever it links to lie in the folder."""
    try:
        file = Path(os.path.join(folder, value)).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a loop of links
        return None
    return file if file.is_relative_to(folder) else None
