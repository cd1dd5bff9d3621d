from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.series import Series, decode, encode, identity

VALUES = np.array([[1.0, 2.0, 3.5, 0.0], [5.0, 5.0, 5.0, 5.0]], np.float32)


def window(values=VALUES, names=("x", "y"), start="2026-01-01", **options) -> bytes:
    return encode(values, names, start, **options)


def test_a_window_is_read_as_it_was_written():
    seen = decode(window())
    np.testing.assert_array_equal(seen.values, VALUES)
    assert seen.names == ("x", "y") and seen.start == "2026-01-01"
    sample = Series().read(window(), {})
    assert sample.columns | {"values": None} == {"values": None, "steps": 4, "channels": 2, "start": "2026-01-01"}
    assert sample.counted == {"steps": 4, "channels": 2}
    np.testing.assert_array_equal(load(sample.columns["values"]["bytes"])["values"], VALUES)  # by another reader


def test_identity_is_the_values_whatever_their_names_and_time():
    read = Series().read
    first = read(window(), {}).identity
    assert first == read(window(names=("a", "b"), start="2027"), {}).identity
    assert first == read(window(np.where(VALUES == 0, -0.0, VALUES)), {}).identity  # 0 and -0 are one value
    assert first != read(window(VALUES + np.eye(2, 4, dtype=np.float32)), {}).identity
    assert identity(VALUES) != identity(VALUES.reshape(4, 2)) and len(first) == 32


def test_few_missing_values_are_interpolated():
    values = np.array([[np.nan, 1, 2, np.nan, np.nan, 5, 6, np.nan, 8, 9, 10, 11]])
    filled = decode(window(values, ["x"], max_missing=0.4)).values
    np.testing.assert_allclose(filled, [[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])
    with pytest.raises(BadSample, match="too many missing values: 33% of 'x', at most 10%"):
        window(values, ["x"])
    with pytest.raises(BadSample, match="too many missing values: 100% of 'y'"):
        window(np.stack([values[0], np.full(12, np.nan)]), max_missing=0.9)


@pytest.mark.parametrize("odd", [np.inf, -np.inf, 1e39])
def test_infinite_values_are_refused(odd):
    values = VALUES.astype(np.float64)
    values[1, 2] = odd
    with pytest.raises(BadSample, match="infinite values: -?inf at step 2 of 'y'"):
        window(values)


def test_a_window_without_signal_is_refused():
    with pytest.raises(BadSample, match="no signal: all 2 channels are constant over 4 steps"):
        Series().read(window(np.ones((2, 4))), {})
    Series().read(window(), {})  # one constant channel of two is no fault


def bare(tensor, about=None, key="series") -> bytes:
    about = {"names": ["x", "y"], "start": ""} if about is None else about
    return save({"values": tensor}, {key: about if isinstance(about, str) else json.dumps(about)})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"12345678", b"\xff" * 64, window()[:-1], window() + b"1", b"PK\x03\x04" * 20,
        bare(VALUES.astype(np.float64)), bare(VALUES[0]), bare(VALUES[:, :0]), bare(VALUES[None]),
        bare(VALUES, key="other"), bare(VALUES, "[" * 100_000), bare(VALUES, "nonsense"), bare(VALUES, [1]),
        bare(VALUES, {"names": ["x"], "start": ""}), bare(VALUES, {"names": [1, 2], "start": ""}),
        bare(VALUES, {"names": "xy", "start": ""}), bare(VALUES, {"names": ["x", "y"], "start": 3}),
        save({"other": VALUES}, {"series": json.dumps({"names": ["x", "y"], "start": ""})}), save({"values": VALUES}),
    ],
)  # fmt: skip
def test_hostile_bytes_are_refused_with_a_reason(data):
    with pytest.raises(BadSample, match="not a window of a series"):
        Series().read(data, {})


def test_values_that_are_no_numbers_are_refused_whoever_wrote_them():
    with pytest.raises(BadSample, match="missing or infinite values: nan at step 1 of 'x'"):
        Series().read(bare(np.where(VALUES == 2, np.nan, VALUES).astype(np.float32)), {})


@given(st.integers(0, len(window()) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_window_or_a_reason(place, change):
    data = bytearray(window())
    data[place] ^= change
    try:
        assert len(Series().read(bytes(data), {}).identity) == 32
    except BadSample as reason:
        assert str(reason)
