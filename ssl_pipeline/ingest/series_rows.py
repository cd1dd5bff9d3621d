"""A table of measurements as arrays, its rows in order of recording and time.

The measurements are copied once, as float32, into a temporary file that is mapped: rows of a recording may stand anywhere
in the table. Held in memory are some tens of bytes a row: its place and time, and codes for recording, label, group and split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLIT_NAMES
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.table import columns, is_parquet, text
from ssl_pipeline.part import PipelineError, did_you_mean

NOBODY = -1
"""The code of an empty cell."""
NEVER = np.iinfo(np.int64).min
"""A missing time."""
BATCH_VALUES = 1 << 20


@dataclass
class Codes:
    """A column of texts as numbers: row i has the word `words[codes[i]]`, or none where the code is NOBODY."""

    words: list[str] = field(default_factory=list)
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __getitem__(self, row: int) -> str | None:
        code = self.codes[row]
        return None if code == NOBODY else self.words[code]

    def used(self) -> set[str]:
        return {self.words[code] for code in np.unique(self.codes) if code != NOBODY}


@dataclass
class Rows:
    """Row i of these arrays has its measurements in row `place[i]` of `values` (float32 `[rows of the table, channels]`)."""

    values: np.ndarray
    names: tuple[str, ...]
    place: np.ndarray
    series: Codes | None
    label: Codes | None
    group: Codes | None
    split: Codes | None
    time: np.ndarray | None
    """int64 or float64, rising within a recording."""
    unit: str | None
    """numpy's name of a date's unit."""
    notes: list[str]
    """What a person should know: rows left out, out of order, repeated."""

    def __len__(self) -> int:
        return len(self.place)

    def when(self, row: int) -> str:
        """A row's time as text; its number in the table, from 1, where there is no time."""
        if self.time is None:
            return str(self.place[row] + 1)
        if self.unit is None:
            return str(self.time[row])
        date = str(self.time[row].astype(f"datetime64[{self.unit}]"))
        return date.rstrip("0").removesuffix(".") if "." in date else date


def load(source: SeriesTable, path: Path) -> Rows:
    """Raises PipelineError where the table is missing, malformed or empty, has no such column, or names an unknown split."""
    try:
        return _ordered(_copied(source, path), path)
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: is malformed: {' '.join(str(error).split())[:200]}") from error


def _copied(source: SeriesTable, path: Path) -> Rows:
    """One pass over the table: its rows as they stand."""
    kinds = _kinds(path)
    texts = {p: column for p in ("series", "label", "group", "split") if (column := getattr(source, p)) is not None}
    others = {*texts.values(), source.time}
    names = source.channels or tuple(n for n, kind in kinds.items() if n not in others and _is_numeric(kind))
    for column in [*texts.values(), *([source.time] if source.time else []), *names]:
        if column not in kinds:
            near = did_you_mean(column, kinds) or f" (columns: {', '.join(list(kinds)[:20]) or 'none'})"
            raise PipelineError(f"{path}: has no column {column!r}{near}")
    if not names:
        raise PipelineError(f"{path}: has no numeric column that is not named for something else: set source.channels")
    coded = {purpose: _Coder(path, purpose) for purpose in texts}
    times: list[np.ndarray] = []
    unit, count = None, 0
    with tempfile.TemporaryFile() as file:  # mapped below, and gone when the array is
        for batch in _batches(path, kinds, names, texts, source.time):
            np.stack([_numbers(batch[name], name, path) for name in names], axis=1).tofile(file)
            for purpose, column in texts.items():
                coded[purpose].add(batch[column])
            if source.time:
                time, unit = _times(batch[source.time], source.time, path)
                times.append(time)
            count += batch.num_rows
        if not count:
            raise PipelineError(f"{path}: has no rows: correct the source's path")
        file.flush()
        values = np.memmap(file, np.float32, "r", shape=(count, len(names)))
    done = {purpose: coder.done() for purpose, coder in coded.items()}
    return Rows(
        values, names, np.arange(count), done.get("series"), done.get("label"), done.get("group"), done.get("split"),
        np.concatenate(times) if times else None, unit, [],
    )  # fmt: skip


def _ordered(rows: Rows, path: Path) -> Rows:
    """The rows sorted, without those that lack a recording or a time, and without repeated times."""
    count, time = len(rows), rows.time
    series = rows.series.codes if rows.series else np.zeros(count, np.int32)
    known = series != NOBODY
    if time is not None:
        known &= time != NEVER if time.dtype == np.int64 else np.isfinite(time)
    if lost := count - int(known.sum()):
        rows.notes.append(f"{lost} rows without a recording or a time, left out")
    order = np.argsort(series, kind="stable")
    order = order[known[order]]
    if time is not None:
        back = (np.diff(series[order]) == 0) & (time[order][1:] < time[order][:-1])
        if back.any():
            rows.notes.append(f"{int(back.sum())} rows earlier than the row before them, put in order of time")
        order = order[np.lexsort((time[order], series[order]))]
        again = np.zeros(len(order), bool)
        again[1:] = (np.diff(series[order]) == 0) & (time[order][1:] == time[order][:-1])
        if again.any():
            cure = (
                ""
                if rows.series
                else "; if they are of several recordings, name the column that tells these apart in source.series"
            )
            rows.notes.append(
                f"{int(again.sum())} rows with the time of another row, of which the first was kept{cure}"
            )
        order = order[~again]
    if not len(order):
        raise PipelineError(f"{path}: no row has a recording and a time: correct source.series or source.time")
    for column in (rows.series, rows.label, rows.group, rows.split):
        if column:
            column.codes = column.codes[order]
    rows.place, rows.time = order, None if time is None else time[order]
    return rows


class _Coder:
    """Gathers a column of texts as codes, batch after batch."""

    def __init__(self, path: Path, purpose: str) -> None:
        self.path, self.purpose = path, purpose
        self.index: dict[str, int] = {}
        self.parts: list[np.ndarray] = []

    def add(self, column: pa.Array) -> None:
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = np.array([*map(self.code, encoded.dictionary.to_pylist()), NOBODY], np.int32)
        self.parts.append(codes[encoded.indices.cast(pa.int64()).fill_null(len(codes) - 1).to_numpy()])

    def code(self, value: object) -> int:
        word = text(value)
        if word is None:
            return NOBODY
        if self.purpose == "split":
            if word.strip().lower() not in SPLIT_NAMES:
                raise PipelineError(f"{self.path}: split {word!r} is none of {', '.join(SPLIT_NAMES)}")
            word = SPLIT_NAMES[word.strip().lower()]
        return self.index.setdefault(word, len(self.index))

    def done(self) -> Codes:
        return Codes(list(self.index), np.concatenate(self.parts))


def _kinds(path: Path) -> dict[str, pa.DataType]:
    """The columns' Arrow types; of a CSV as its first megabyte shows them."""
    names = columns(path)
    if twice := [name for name in names if names.count(name) > 1]:
        raise PipelineError(f"{path}: has two columns {twice[0]!r}: rename one")
    if not names:
        raise PipelineError(f"{path}: is empty: correct the source's path")
    if is_parquet(path):
        return {column.name: column.type for column in pq.read_schema(path)}
    with pacsv.open_csv(path) as file:
        return {column.name: column.type for column in file.schema}


def _batches(
    path: Path, kinds: dict[str, pa.DataType], names: tuple[str, ...], texts: dict[str, str], time: str | None
) -> Iterator[pa.RecordBatch]:
    wanted = list(dict.fromkeys([*names, *texts.values(), *([time] if time else [])]))
    if is_parquet(path):
        rows = max(1, min(1 << 16, BATCH_VALUES // len(wanted)))
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=wanted, use_threads=False)
        return
    types = {name: pa.float64() for name in names} | {column: pa.string() for column in texts.values()}
    types |= {time: kinds[time]} if time else {}
    with pacsv.open_csv(path, convert_options=pacsv.ConvertOptions(include_columns=wanted, column_types=types)) as file:
        yield from file


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _numbers(column: pa.Array, name: str, path: Path) -> np.ndarray:
    """float32, missing ones NaN."""
    try:
        with np.errstate(over="ignore"):
            return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype("<f4")
    except pa.ArrowException as error:
        raise PipelineError(
            f"{path}: channel {name!r} is not numeric: {error}; drop it from source.channels"
        ) from error


def _times(column: pa.Array, name: str, path: Path) -> tuple[np.ndarray, str | None]:
    """(int64 or float64, the unit where they are dates); missing ones are the smallest integer, or NaN."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            import pandas as pd

            dates = pd.to_datetime(column.to_pandas(), format="ISO8601", utc=True)
        except ValueError as error:
            raise PipelineError(
                f"{path}: time column {name!r} holds what is neither a number nor a date in ISO 8601: {error}"
            ) from error
        return dates.astype("datetime64[ns, UTC]").astype("int64").to_numpy(), "ns"
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s") if pa.types.is_date32(kind) else pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return _integers(column.cast(pa.int64())), column.type.unit
    if pa.types.is_integer(kind):
        return _integers(column.cast(pa.int64())), None
    if pa.types.is_time32(kind) or pa.types.is_time64(kind):
        return _integers(column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(pa.int64())), None
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    raise PipelineError(f"{path}: time column {name!r} holds {kind}: expected numbers or dates")


def _integers(column: pa.Array) -> np.ndarray:
    return column.fill_null(NEVER).to_numpy()
