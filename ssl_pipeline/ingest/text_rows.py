"""The rows of a text file: lines, CSV, TSV, JSON lines or Parquet, streamed in bounded memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.archive import DAMAGE
from ssl_pipeline.ingest.item import MAX_BYTES
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.text import MAX_CHARACTERS
from ssl_pipeline.part import PipelineError

MAX_CELL = 1 << 27
"""Characters after which a CSV's cell or line is a fault of the file, such as a quotation mark that never closes."""

Open = Callable[[], BinaryIO]
Row = dict[str | int, Any] | str
"""A row by its columns, or the reason why it is none."""
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def format_of(source: Text, name: str) -> str:
    """lines, csv, tsv, jsonl or parquet."""
    if source.format != "auto":
        return source.format
    name = name.lower().removesuffix(".gz")
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "lines")


def rows(open_file: Open, name: str, source: Text) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of each row; a line of text is `{"text": line}`. Raises PipelineError where the file is damaged."""
    with explained(name), inflated(open_file) as file:
        match format_of(source, name):
            case "lines":
                for number, line in lines(file, source.encoding):
                    yield number, OVERLONG if line is None else {"text": line}
            case "jsonl":
                for number, line in lines(file, source.encoding):
                    if line is None or line.strip():
                        yield number, OVERLONG if line is None else json_row(line)
            case "parquet":
                yield from enumerate(parquet_rows(file, [*source.texts, *source.columns.values()]), start=1)
            case kind:
                yield from csv_rows(file, kind, source)


def columns(open_file: Open, name: str, source: Text) -> list[str | int]:
    """The table's columns, of JSON lines those of its first thousand. Raises PipelineError where it cannot be read."""
    kind = format_of(source, name)
    if kind == "parquet":
        with explained(name), inflated(open_file) as file:
            return list(pq.read_schema(whole(file)).names)
    if kind == "jsonl" or not source.header:
        first = islice(rows(open_file, name, source), 1000)
        return list(dict.fromkeys(column for _, row in first if isinstance(row, dict) for column in row))
    with explained(name), inflated(open_file) as file:
        return list(next(read_csv(file, kind, source), []))


def row_count(open_file: Open, name: str, source: Text) -> int | None:
    """Where the file says so itself."""
    if format_of(source, name) != "parquet":
        return None
    with explained(name), inflated(open_file) as file:
        return pq.read_metadata(whole(file)).num_rows


OVERLONG = "oversized: a line above 10 million characters"


def lines(file: BinaryIO, encoding: str | None) -> Iterator[tuple[int, str | None]]:
    """(number from 1, line without its end, or None where it is too long). Bytes that are not of the encoding become lone
    surrogates."""
    text = io.TextIOWrapper(file, encoding or "utf-8-sig", errors="surrogateescape")
    number = 0
    while line := text.readline(MAX_CHARACTERS + 1):
        number += 1
        if len(line) <= MAX_CHARACTERS or line.endswith("\n"):
            yield number, line.rstrip("\n")
            continue
        while (rest := text.readline(MAX_CHARACTERS)) and not rest.endswith("\n"):
            pass
        yield number, None


def json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {' '.join(str(error).split())[:100]}"
    return row if isinstance(row, dict) else f"not a JSON object: a {type(row).__name__}"


def csv_rows(file: BinaryIO, kind: str, source: Text) -> Iterator[tuple[int, Row]]:
    reader = read_csv(file, kind, source)
    names: list[str] | None = next(reader, []) if source.header else None
    for number, cells in enumerate((cells for cells in reader if cells), start=1):
        yield number, dict(zip(names or range(1, len(cells) + 1), cells, strict=False))


def read_csv(file: BinaryIO, kind: str, source: Text) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))  # 131,072 by default: less than a long document
    text = io.TextIOWrapper(file, source.encoding or "utf-8-sig", errors="surrogateescape", newline="")
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {}
    return csv.reader(bounded_lines(text), **tabs)


def bounded_lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(MAX_CELL):
        if len(line) == MAX_CELL:
            raise csv.Error(f"a line is longer than {MAX_CELL:,} characters")
        yield line


def parquet_rows(file: BinaryIO, wanted: list[Any]) -> Iterator[Row]:
    with pq.ParquetFile(whole(file), buffer_size=1 << 20, pre_buffer=False) as table:
        for batch in table.iter_batches(batch_size=32, columns=wanted, use_threads=False):
            yield from batch.to_pylist()


def whole(file: BinaryIO) -> BinaryIO:
    """Parquet is read from its end: what is packed into an archive is unpacked into memory, up to 1 GiB."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        return file
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise pa.ArrowInvalid("a packed Parquet file above 1 GiB: unpack it first")
    return io.BytesIO(data)


@contextmanager
def inflated(open_file: Open) -> Iterator[BinaryIO]:
    """The open file, of gzip what it holds, whatever its name."""
    with open_file() as file, open_file() as again:
        yield gzip.GzipFile(fileobj=again) if file.read(2) == b"\x1f\x8b" else again  # type: ignore[misc]


@contextmanager
def explained(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PipelineError(f"{name}: there is no such file: correct the source's path") from error
    except (csv.Error, pa.ArrowException, zlib.error, *DAMAGE) as error:
        raise PipelineError(f"{name}: is malformed: {' '.join(str(error).split())[:200]}") from error
