"""series: a CSV or Parquet file with a row a time step, cut into windows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from ssl_pipeline.ingest.item import MAX_BYTES, SPLITS, BadSample, Item, Reading
from ssl_pipeline.ingest.series import encode
from ssl_pipeline.ingest.series_rows import NOBODY, Codes, Rows, load
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.part import PipelineError

Stretch = tuple[int, int]
"""Rows from the first up to, not including, the second."""


def read(source: SeriesTable, path: Path, validation: float = 0.1, test: float = 0.2) -> Reading:
    """The table's windows.

    A single recording is split by time: first train, then `validation`, then `test`, as shares of its rows, and no window
    crosses a border; with shares of 0 it stays whole. Where there are several recordings, each is a group, for the dataset's own
    split.

    Raises PipelineError where the table is malformed, is one recording without a window, or leaves a split without one.
    """
    rows = load(source, path)
    several = len(_used(rows.series)) > 1 or len(_used(rows.group)) > 1
    if not several and source.window is None:
        raise PipelineError(
            f"{path}: is one recording of {len(rows)} rows: set source.window to the rows of a sample, or source.series "
            "to the column that tells recordings apart"
        )
    if not several and rows.split is None and validation + test:
        share = (np.arange(len(rows)) + 0.5) / len(rows)
        rows.split = Codes(list(SPLITS), np.digitize(share, [1 - validation - test, 1 - test]))
    stretches, gaps = _stretches(rows, source.max_gap)
    if gaps:
        rows.notes.append(f"{gaps} gaps, steps above {source.max_gap:g} median ones, which no window crosses")
    if not several and rows.split:
        _refuse_empty_splits(rows, source, stretches, path)
    groups = _groups(rows) if several else None
    windows = (window for stretch in stretches for window in _windows(source, *stretch))
    items = (_item(source, rows, groups, path, *window) for window in windows)
    total = sum(1 for stretch in stretches for _ in _windows(source, *stretch))
    return Reading(items, frozenset(_used(rows.split)), total, tuple(rows.notes))


def _stretches(rows: Rows, max_gap: float) -> tuple[list[Stretch], int]:
    """The runs of rows of one recording, group and split without a gap, and how many gaps there are."""
    cut = np.zeros(len(rows) + 1, bool)
    cut[[0, -1]] = True
    if rows.series:
        cut[1:-1] |= np.diff(rows.series.codes) != 0
    recordings, gaps = _pairs(cut), 0
    for column in (rows.group, rows.split):
        if column:
            cut[1:-1] |= np.diff(column.codes) != 0
    for low, high in recordings:
        if rows.time is None:
            break
        time = rows.time[low:high]
        # of rising integers the difference without a sign never overflows
        steps = np.diff(time.view(np.uint64) if time.dtype == np.int64 else time)
        if len(steps):
            wide = steps > max_gap * np.median(steps)
            cut[low + 1 : high] |= wide
            gaps += int(wide.sum())
    return _pairs(cut), gaps


def _pairs(cut: np.ndarray) -> list[Stretch]:
    edges = cut.nonzero()[0].tolist()
    return list(pairwise(edges))


def _windows(source: SeriesTable, low: int, high: int) -> Iterator[Stretch]:
    """Those of a stretch; the whole of one that is too short for any."""
    size = source.window or high - low
    if high - low < size:
        yield low, high
    for start in range(low, high - size + 1, source.stride or size):
        yield start, start + size


def _item(
    source: SeriesTable, rows: Rows, groups: dict[tuple[int, int], str] | None, path: Path, low: int, high: int
) -> Item:
    recording = rows.series[low] if rows.series else None
    group = None
    if groups is not None:
        group = (rows.group[low] if rows.group else None) or groups.get(_place(rows, low))
    return Item(
        f"{recording or path.stem} at {rows.when(low)}",
        partial(_load, source, rows, low, high),
        _label(rows.label, low, high),
        group,
        rows.split[low] if rows.split else None,
    )


def _load(source: SeriesTable, rows: Rows, low: int, high: int) -> bytes:
    """Raises BadSample where the window is cut short by a gap or an end, too large, or lacks too many values."""
    if source.window and high - low < source.window:
        raise BadSample(f"shorter than a window: {high - low} of {source.window} rows between gaps or ends")
    if (high - low) * len(rows.names) * 4 > MAX_BYTES:
        raise BadSample("oversized: a window above 1 GiB")
    return encode(rows.values[rows.place[low:high]].T, rows.names, rows.when(low), source.max_missing)


def _label(labels: Codes | None, low: int, high: int) -> str | None:
    """The one that more than half of the rows have."""
    if labels is None:
        return None
    codes = labels.codes[low:high]
    counts = np.bincount(codes[codes != NOBODY], minlength=1)
    return labels.words[counts.argmax()] if 2 * counts.max() > high - low else None


def _groups(rows: Rows) -> dict[tuple[int, int], str]:
    """A group's name for each part of a recording that lies in one split: the recording's own where that is all of it."""
    if rows.series is None:
        return {}
    split = rows.split.codes if rows.split else np.zeros(len(rows), np.int32)
    parts = np.unique(np.stack([rows.series.codes, split], axis=1), axis=0).tolist()
    names = {}
    for series, part in parts:
        name = rows.series.words[series]
        alone = rows.split is None or sum(other == series for other, _ in parts) == 1
        word = "none" if rows.split is None or part == NOBODY else rows.split.words[part]
        names[series, part] = name if alone else f"{name} ({word})"
    return names


def _place(rows: Rows, row: int) -> tuple[int, int]:
    assert rows.series
    return int(rows.series.codes[row]), int(rows.split.codes[row]) if rows.split else 0


def _used(column: Codes | None) -> set[str]:
    return column.used() if column else set()


def _refuse_empty_splits(rows: Rows, source: SeriesTable, stretches: list[Stretch], path: Path) -> None:
    """A single recording has no group to hash: each split must be there, and long enough for a window."""
    assert rows.split and source.window
    longest = dict.fromkeys(SPLITS, 0)
    for low, high in stretches:
        if name := rows.split[low]:
            longest[name] = max(longest[name], high - low)
    for split, length in longest.items():
        if not length:
            raise PipelineError(
                f"{path}: is one recording whose split column never says {split}: name all of {', '.join(SPLITS)}, or "
                "drop source.split to split by time"
            )
        if length < source.window:
            raise PipelineError(
                f"{path}: the longest stretch for {split} has {length} rows, too short for a window of {source.window}: "
                "lower source.window, add rows, or raise the split's share"
            )
