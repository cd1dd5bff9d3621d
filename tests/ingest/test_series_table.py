from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.series import decode
from ssl_pipeline.ingest.series_table import read
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.part import PipelineError


def measurements(rows: int, **columns) -> pd.DataFrame:
    """x counts from 0, so that a window's values say which rows it holds."""
    return pd.DataFrame({"x": np.arange(rows, dtype=float), "y": np.sin(np.arange(rows))} | columns)


@pytest.fixture(params=["csv", "parquet"])
def source(request, tmp_path: Path):
    """Writes a table and describes it: `source(frame, window=10, ...)` -> (settings, path)."""

    def write(frame: pd.DataFrame, **settings) -> tuple[SeriesTable, Path]:
        path = tmp_path / f"table.{request.param}"
        frame.to_csv(path, index=False) if request.param == "csv" else frame.to_parquet(path)
        return SeriesTable(path=str(path), **settings), path

    return write


def rows_of(item) -> list[int]:
    return decode(item.load()).values[0].astype(int).tolist()


def test_one_recording_is_split_by_time_and_no_row_is_in_two_splits(source):
    reading = read(*source(measurements(1000), window=30, stride=7), validation=0.1, test=0.2)
    items = list(reading.items)
    assert reading.total == len(items) and reading.splits == {"train", "validation", "test"}
    used = {split: set() for split in reading.splits}
    for item in items:
        used[item.split] |= set(rows_of(item))
    assert used["train"] <= set(range(700)) and used["validation"] <= set(range(700, 800))
    assert used["test"] <= set(range(800, 1000)) and all(len(rows) >= 90 for rows in used.values())
    assert {item.group for item in items} == {None}
    assert items[1].source == "table at 8" and decode(items[1].load()).start == "8"  # rows count from 1
    assert decode(items[0].load()).names == ("x", "y")


def test_recordings_are_groups_and_windows_stay_inside(source):
    frame = measurements(100, run=["b"] * 45 + ["a"] * 25 + ["c"] * 30)
    items = list(read(*source(frame, series="run", window=10)).items)
    assert [(i.group, rows_of(i)[0]) for i in items] == [
        ("b", 0), ("b", 10), ("b", 20), ("b", 30), ("a", 45), ("a", 55), ("c", 70), ("c", 80), ("c", 90)
    ]  # fmt: skip
    whole = list(read(*source(frame, series="run")).items)
    assert [len(rows_of(i)) for i in whole] == [45, 25, 30] and {i.split for i in whole} == {None}


def test_rows_may_stand_in_any_order(source):
    frame = measurements(60, run=["a"] * 30 + ["b"] * 30, t=list(range(30)) * 2)
    mixed = frame.sample(frac=1, random_state=0)
    settings = {"series": "run", "time": "t", "window": 10, "channels": ("x", "y")}
    reading = read(*source(mixed, **settings))
    found = {item.source: rows_of(item) for item in reading.items}
    assert found == {item.source: rows_of(item) for item in read(*source(frame, **settings)).items}
    assert found["b at 10"] == list(range(40, 50))
    assert any("put in order of time" in note for note in reading.notes)


def test_repeated_times_keep_the_first_and_are_counted(source):
    frame = measurements(40, t=[*range(20), 3, 4, *range(20, 38)])
    reading = read(*source(frame, time="t", window=4), validation=0.2, test=0.2)
    rows = sorted(row for item in reading.items for row in rows_of(item))
    assert 20 not in rows and 21 not in rows and 3 in rows and len(rows) == len(set(rows))
    assert any(note.startswith("2 rows with the time of another row") for note in reading.notes)


def test_windows_do_not_cross_gaps(source):
    dates = pd.date_range("2026-01-01", periods=100, freq="min")
    dates = dates.where(np.arange(100) < 43, dates + pd.Timedelta("1h"))
    reading = read(*source(measurements(100, when=dates), time="when", window=10), validation=0.2, test=0.2)
    items = list(reading.items)
    starts = [rows_of(item)[0] for item in items if item.split == "train"]
    assert starts == [0, 10, 20, 30, 43]
    assert items[0].source == "table at 2026-01-01T00:00:00"
    assert "1 gaps, steps above 3 median ones, which no window crosses" in reading.notes
    loose = read(*source(measurements(100, when=dates), time="when", window=10, max_gap=100), validation=0.2, test=0.2)
    assert not any("gap" in note for note in loose.notes)


def test_a_stretch_that_is_too_short_is_quarantined_with_its_reason(source):
    frame = measurements(25, run=["a"] * 8 + ["b"] * 17)
    short, whole = read(*source(frame, series="run", window=10)).items
    with pytest.raises(BadSample, match="shorter than a window: 8 of 10 rows"):
        short.load()
    assert rows_of(whole) == list(range(8, 18))


def test_the_label_is_what_most_rows_say(source):
    frame = measurements(40, run=["a"] * 20 + ["b"] * 20, what=["walk"] * 16 + ["run"] * 9 + [None] * 15)
    labels = [item.label for item in read(*source(frame, series="run", label="what", window=10)).items]
    assert labels == ["walk", "walk", None, None]  # 6 of 10, then half of 10


def test_groups_and_splits_named_by_columns(source):
    frame = measurements(60, who=["p"] * 30 + ["q"] * 30, part=(["train"] * 15 + ["TEST"] * 15) * 2)
    reading = read(*source(frame, group="who", split="part", window=5))
    assert reading.splits == {"train", "test"}
    assert {(i.group, i.split) for i in reading.items} == {(g, s) for g in "pq" for s in ("train", "test")}
    reading = read(*source(frame, series="who", split="part", window=5))  # each part of a recording is a group
    assert {i.group for i in reading.items} == {f"{g} ({s})" for g in "pq" for s in ("train", "test")}


def test_missing_values_follow_the_settings(source):
    frame = measurements(100)
    frame.loc[[12, 53, 54, 55], "y"] = np.nan
    items = list(read(*source(frame, window=10, max_missing=0.1), validation=0.2, test=0.2).items)
    expected = (np.sin(11) + np.sin(13)) / 2
    assert decode(items[1].load()).values[1, 2] == pytest.approx(expected)
    with pytest.raises(BadSample, match="too many missing values: 30% of 'y'"):
        items[5].load()


def test_rows_without_a_time_or_a_recording_are_left_out_and_counted(source):
    frame = measurements(50, run=["a"] * 20 + [None] + ["b"] * 29, t=[float(i) for i in range(50)])
    frame.loc[7, "t"] = np.nan
    reading = read(*source(frame, series="run", time="t"))
    assert [len(rows_of(i)) for i in reading.items] == [19, 29]
    assert reading.notes[0] == "2 rows without a recording or a time, left out"


def test_types_of_time(tmp_path):
    base = {"x": pa.array(np.arange(40.0))}
    days = pd.date_range("2026-01-01", periods=40)
    for times, second in [
        (pa.array(range(40)), "1"),
        (pa.array(np.arange(40) / 4), "0.25"),
        (pa.array(days.date), "2026-01-02T00:00:00"),
        (pa.array(days.as_unit("us")), "2026-01-02T00:00:00"),
        (pa.array(days.tz_localize("UTC").as_unit("ms")), "2026-01-02T00:00:00"),
        (pa.array([f"{d:%Y-%m-%dT%H:%M:%S}+02:00" for d in days]), "2026-01-01T22:00:00"),
        (pa.array([2**62 + i for i in range(40)]), str(2**62 + 1)),
        (pa.array(range(40), pa.time32("ms")), "1"),
    ]:
        pq.write_table(pa.table(base | {"t": times}), tmp_path / "t.parquet")
        reading = read(SeriesTable(path="t", time="t", window=2, stride=1), tmp_path / "t.parquet")
        assert not reading.notes
        assert [item.source for item in reading.items][1] == f"t at {second}"


def test_numbers_beside_the_largest_do_not_overflow(tmp_path):
    times = [-(2**63) + 1, 0, 2**63 - 1] + [2**62 + i for i in range(27)]
    pq.write_table(pa.table({"x": np.arange(30.0), "t": times}), tmp_path / "t.parquet")
    reading = read(SeriesTable(path="t", time="t", window=2), tmp_path / "t.parquet", 0.2, 0.2)
    assert "3 gaps" in reading.notes[1] and len(list(reading.items)) == reading.total


@pytest.mark.parametrize(
    ("frame", "settings", "message"),
    [
        (measurements(50), {}, "is one recording of 50 rows: set source.window"),
        (measurements(50), {"window": 30}, "longest stretch for .* too short for a window of 30"),
        (measurements(50), {"window": 5, "time": "z"}, "has no column 'z'"),
        (measurements(50), {"window": 5, "channels": ("xx",)}, "has no column 'xx'"),
        (measurements(50, part="left"), {"window": 5, "split": "part"}, "split 'left' is none of train"),
        (measurements(50, part="train"), {"window": 5, "split": "part"}, "whose split column never says validation"),
        (measurements(50, t="noon"), {"window": 5, "time": "t"}, "neither a number nor a date"),
        (measurements(50, w="wet"), {"window": 5, "channels": ("w",)}, "w.*(not numeric|conversion error)"),
        (measurements(0), {"window": 5}, "has no (rows|numeric column)"),
        (pd.DataFrame({"w": ["a", "b"]}), {"window": 2}, "has no numeric column"),
        (measurements(50, run=None), {"series": "run"}, "no row has a recording and a time"),
    ],
)
def test_faults_of_a_table_name_their_cure(source, frame, settings, message):
    with pytest.raises(PipelineError, match=message):
        read(*source(frame, **settings))


def test_malformed_tables_are_refused(tmp_path):
    settings = SeriesTable(path="x", window=5)
    for name, content in {
        "a.csv": b"",
        "b.csv": b"x,x\n1,2\n",
        "c.parquet": b"PAR1 and nothing",
        "d.csv": b"x,y\n1\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PipelineError):
            read(settings, tmp_path / name)
    with pytest.raises(PipelineError, match="there is no such table"):
        read(settings, tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": "a", "label": "a"}, "column 'a' is named for two purposes"),
        ({"channels": ("a", "a")}, "column 'a' is named for two purposes"),
        ({"stride": 3}, "stride 3 needs a window"),
        ({"window": 1}, "greater than or equal to 2"),
        ({"max_missing": 1.0}, "less than 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(ValidationError, match=message):
        SeriesTable(path="x", **settings)
    SeriesTable(path="x", series="a", group="a")  # a recording may be its own group
