from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest

from ssl_pipeline.ingest import demo_series
from ssl_pipeline.ingest.series import Series, decode
from ssl_pipeline.part import PipelineError


@pytest.fixture
def installed():
    def needs(package: str) -> None:
        if not importlib.util.find_spec(package):
            pytest.skip(f"package {package} is not installed")

    return needs


def test_japanese_vowels_are_those_of_the_archive(installed):
    installed("aeon")
    reading = demo_series.read("japanese_vowels")
    items = list(reading.items)
    samples = [Series().read(item.load(), item.extra) for item in items]
    assert len(items) == reading.total == 640 and len({s.identity for s in samples}) == 640
    assert Counter(item.split for item in items) == {"train": 270, "test": 370}
    assert Counter(item.label for item in items if item.split == "train") == {str(n): 30 for n in range(1, 10)}
    lengths = [sample.counted["steps"] for sample in samples]
    assert {sample.counted["channels"] for sample in samples} == {12} and (min(lengths), max(lengths)) == (7, 29)
    assert decode(items[0].load()).values[0, 0] == np.float32(1.860936)


def test_the_smartwatch_is_read_without_running_its_pickle(installed, monkeypatch):
    installed("seglearn")
    import pickle

    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    reading = demo_series.read("smartwatch")
    items = list(reading.items)
    assert len(items) == reading.total == 3605
    assert Counter(i.split for i in items) == {"train": 2055, "validation": 405, "test": 1145}
    people = {split: {i.group for i in items if i.split == split} for split in reading.splits}
    assert [len(people[s]) for s in ("train", "validation", "test")] == [6, 1, 3] and len(
        set().union(*people.values())
    ) == 10
    assert {item.label for item in items} == set(demo_series.EXERCISES)
    first = decode(items[0].load())
    assert first.values.shape == (6, 128) and first.names == demo_series.SENSORS
    # an arm that hangs still feels gravity: the accelerometer's length is about 1 g
    lengths = [np.linalg.norm(decode(item.load()).values[:3], axis=0).mean() for item in items[::100]]
    assert 0.9 < np.median(lengths) < 1.2


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in demo_series.PACKAGES.items():
        with pytest.raises(PipelineError, match=f"demo {name}: package {package} is not installed"):
            list(demo_series.read(name).items)


def test_ts_files_with_headers_comments_and_several_channels(tmp_path):
    (tmp_path / "a.ts").write_text("# a comment: with a colon\n@problemName a\n@data\n\n1,2:3,4:up\n5:6:down\n")
    (first, up), (second, down) = demo_series.cases(tmp_path / "a.ts")
    np.testing.assert_array_equal(first, [[1, 2], [3, 4]])
    assert (up, down) == ("up", "down") and second.tolist() == [[5], [6]]
