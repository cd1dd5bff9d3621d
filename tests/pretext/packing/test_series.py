from __future__ import annotations

import json

import numpy as np
import pytest

from ssl_pipeline.encoders.settings_series import SeriesEncoder as Settings
from ssl_pipeline.ingest.series import Series, encode
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.series import Moments, to_length, write

COUNTS = {"train": 130, "validation": 3, "test": 5}


@pytest.fixture
def windows():
    """By split, walks of two channels of 20 to 30 steps: the first far from 0, the second small."""
    random = np.random.default_rng(0)
    return {
        split: [
            random.standard_normal((2, 20 + i % 11)) * [[1], [0.001]] + [[1e5], [0]] for i in range(count)
        ] for split, count in COUNTS.items()
    }  # fmt: skip


@pytest.fixture
def tree(tmp_path, windows):
    path = tmp_path / "tree"
    path.mkdir()
    with Shards(path, Series()) as shards:
        for split, found in windows.items():
            for i, values in enumerate(found):
                sample = Series().read(encode(values, ["far", "small"], str(i)), {})
                row = {"sample_id": sample.identity, "label": "even" if i % 2 == 0 else None, "group": str(i % 3)}
                shards.add(split, row | {"source": f"{split}/{i}"} | sample.columns)
    (path / "dataset.json").write_text(json.dumps({"splits": COUNTS}))
    return path


def test_every_window_is_a_row_in_the_index_order(tree, tmp_path, windows):
    facts = write(tree, tmp_path, Settings(length=24, patch=4))
    pack = Pack(tmp_path, facts)
    for split, count in COUNTS.items():
        array, index = pack.samples(split)["values"], pack.index(split)
        assert array.dtype == np.float32 and array.shape == (count, 2, 24)
        assert list(index["source"]) == [f"{split}/{i}" for i in range(count)]
        assert index["label"].notna().sum() == -(-count // 2) and index["group"].tolist()[:3] == ["0", "1", "2"]
        for stored, values in zip(array, windows[split], strict=True):
            np.testing.assert_array_equal(stored, to_length(values.astype(np.float32), 24, "crop"))


def test_facts_are_those_of_the_training_split(tree, tmp_path):
    facts = write(tree, tmp_path, Settings(length=24, patch=4))
    train = np.load(tmp_path / "train.values.npy").astype(np.float64)
    assert facts["names"] == ["far", "small"] and facts["channels"] == 2 and facts["length"] == 24
    np.testing.assert_allclose(facts["mean"], train.mean((0, 2)), rtol=1e-10)
    np.testing.assert_allclose(facts["std"], train.std((0, 2)), rtol=1e-6)
    assert json.loads(json.dumps(facts)) == facts


def test_other_lengths_are_cropped_continued_or_stretched():
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert to_length(values, 4, "crop").tolist() == [[1, 2, 3, 4], [7, 8, 9, 10]]
    assert to_length(values, 8, "crop").tolist()[0] == [0, 1, 2, 3, 4, 5, 5, 5]
    np.testing.assert_allclose(to_length(values, 11, "stretch")[1], np.arange(6, 11.5, 0.5))
    np.testing.assert_allclose(to_length(values, 3, "stretch")[0], [0, 2.5, 5])
    for fit in ("crop", "stretch"):
        assert to_length(values, 6, fit) is values
        assert to_length(values[:, :1], 4, fit).tolist() == [[0] * 4, [6] * 4]


def test_a_constant_channel_gets_deviation_1():
    moments = Moments()
    for _ in range(3):
        moments.add(np.full((5, 1, 7), 0.1, np.float32))
    assert moments.deviation().tolist() == [1.0] and moments.mean == pytest.approx(0.1)


def test_windows_with_other_channels_are_refused(tree, tmp_path):
    with Shards(tree, Series()) as shards:
        sample = Series().read(encode(np.eye(2, 30), ["small", "far"], ""), {})
        row = {"sample_id": sample.identity, "label": None, "group": None, "source": "odd"}
        shards.add("test", row | sample.columns)
    with pytest.raises(PipelineError, match="'odd' has channels small, far where the first window has far, small"):
        write(tree, tmp_path, Settings(length=24, patch=4))
