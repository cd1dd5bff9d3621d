"""A table's columns, whole and in Arrow's memory: CSV, TSV, RecBole's `.inter` and `.item`, or Parquet. No loop over rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ssl_pipeline.ingest.table import is_parquet
from ssl_pipeline.part import PipelineError, did_you_mean

HEADER_BYTES = 1 << 20
ROW_BYTES = 16 << 20
"""A row of a text file may be about as long."""
ID = pa.dictionary(pa.int32(), pa.binary())


@dataclass(frozen=True)
class Columns:
    """`table` has the wanted columns under the names that were asked for; `row` is each one's number in the file, from 1,
    header and empty lines not counted. Rows with too few or too many cells are in `malformed` by number."""

    table: pa.Table
    row: np.ndarray
    malformed: np.ndarray


def read(path: Path, wanted: dict[str, str], ids: Iterable[str] = (), long_text: bool = False) -> Columns:
    """`wanted` is {name: column of the file}; of these, `ids` are read as identifiers, which repeat. A quoted cell may hold
    line breaks where `long_text` says so. Raises PipelineError where the table is missing, malformed, or lacks a column."""
    if is_parquet(path):
        with explained(path):
            found = resolve(path, wanted, pq.read_schema(path).names)
            with pq.ParquetFile(path) as file:
                table = file.read(columns=list(found.values()))
        columns = {name: table[column] for name, column in found.items()}
        return Columns(pa.table(columns), np.arange(1, len(table) + 1), np.empty(0, np.int64))
    header, delimiter = read_header(path)
    found = resolve(path, wanted, header)
    malformed: list[int] = []

    def note(row: Any) -> str:
        malformed.append(row.number - 1)
        return "skip"

    with explained(path):
        table = pa_csv.read_csv(
            path,
            # one thread, or rows have no numbers
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=ROW_BYTES),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char=False if delimiter == "\t" else '"',
                newlines_in_values=long_text and delimiter != "\t",
                invalid_row_handler=note,
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(found.values()),
                column_types={column: ID if name in ids else pa.binary() for name, column in found.items()},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    bad = np.array(malformed, np.int64)
    numbers = np.arange(1, len(table) + len(bad) + 1)
    columns = {name: table[column] if name in ids else readable(table[column]) for name, column in found.items()}
    return Columns(pa.table(columns), np.delete(numbers, bad - 1), bad)


def read_header(path: Path) -> tuple[list[str], str]:
    """Names of the columns of a text file, and what stands between them: a tab, or the likeliest of , ; and |."""
    with explained(path), open(path, "rb") as file:
        line = file.readline(HEADER_BYTES).decode("utf-8-sig", "replace").rstrip("\r\n")
    delimiter = "\t" if "\t" in line else max(",;|", key=line.count)
    with explained(path):
        return line.split("\t") if delimiter == "\t" else next(csv.reader([line], delimiter=delimiter), []), delimiter


def resolve(path: Path, wanted: dict[str, str], known: list[str]) -> dict[str, str]:
    """{name: column as the header has it}. RecBole writes a column's type behind its name."""
    plain = {column.partition(":")[0]: column for column in reversed(known)} | {column: column for column in known}
    for column in wanted.values():
        if column not in plain:
            listed = ", ".join(known[:20]) or "none"
            raise PipelineError(f"{path}: has no column {column!r}{did_you_mean(column, plain)} (columns: {listed})")
    return {name: plain[column] for name, column in wanted.items()}


def readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as strings; what is no UTF-8 in them is replaced."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.chunked_array(
            [[value and value.decode("utf-8", "replace") for value in column.to_pylist()]], pa.string()
        )


def identifiers(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, list[str]]:
    """A code a row, -1 where there is none, and the distinct identifiers as sorted strings, which the codes count. Whole
    floats are integers (a null beside integers makes floats of them); what is no UTF-8 is no identifier."""
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
        whole = pc.all(pc.equal(column, pc.round(column))).as_py() is not False
        column = column.cast(pa.int64()) if whole else column
    elif pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_primitive(kind) or is_text(kind) or is_bytes(kind)) or pa.types.is_boolean(kind):
        raise PipelineError(f"{name} column holds {kind}, which are no identifiers: name another column")
    encoded = (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).unify_dictionaries()
    if encoded.num_chunks == 0:
        return np.empty(0, np.int32), []
    codes = np.concatenate(
        [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    ).astype(np.int32)
    values = decoded(encoded.chunk(0).dictionary)
    distinct = sorted({value for value in values if value})
    place = {value: code for code, value in enumerate(distinct)}
    renumber = np.array([place.get(value, -1) if value else -1 for value in values] + [-1], np.int32)
    return renumber[codes], distinct  # code -1 takes the last


def decoded(values: pa.Array) -> list[str | None]:
    if not is_bytes(values.type):
        return values.cast(pa.string()).to_pylist()
    try:
        return values.cast(pa.string()).to_pylist()
    except pa.ArrowInvalid:
        return [utf8(value) for value in values.to_pylist()]


def utf8(value: bytes | None) -> str | None:
    try:
        return value.decode() if value else None
    except UnicodeDecodeError:
        return None


def numbers(column: pa.ChunkedArray, name: str, dates: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """float64 a row, NaN where there is no number, and whether the cell says anything. With `dates`, dates and times are
    seconds since 1970 (UTC where they say nothing else)."""
    kind, given = column.type, np.array(column.is_valid())
    if dates and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        micros = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        return floats(micros) / 1e6, given
    if is_text(kind):
        cells = column.to_pandas().str.strip()
        values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, copy=True, na_value=np.nan)
        given &= (cells.notna() & (cells != "")).to_numpy()
        if dates and (text := given & np.isnan(values)).any():
            times = pd.to_datetime(cells[text], errors="coerce", utc=True, format="ISO8601").to_numpy("datetime64[us]")
            values[text] = np.where(np.isnat(times), np.nan, times.astype(np.int64) / 1e6)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = floats(column)
    else:
        raise PipelineError(f"{name} column holds {kind}, which are no numbers: name another column")
    return np.where(np.isfinite(values), values, np.nan), given


def floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64(), safe=False).to_numpy()


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the file become a PipelineError that names it."""
    try:
        yield
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: is malformed: {' '.join(str(error).split())[:200]}") from error
