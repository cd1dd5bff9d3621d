"""Windows of time series: the one place where their bytes are written and read, and the rules for what a window is.

A window travels as safetensors: float32 `values [channels, steps]`, and in its metadata, under `series` as JSON, the channels'
`names` and `start`, the time of the first step as text. Every library that reads safetensors opens it; none runs code of it.

Missing values (NaN) are interpolated where they are few, and otherwise the window is refused: a mask beside the values would
have to pass through every view, every pretext task and every classical method, all of which are defined on numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from ssl_pipeline.ingest.item import MAX_BYTES, BadSample
from ssl_pipeline.ingest.medium import FILE, INT, TEXT, Column, Sample, ranges


@dataclass(frozen=True)
class Window:
    """`values [channels, steps]` float32, their names, and the time of the first step."""

    values: np.ndarray
    names: tuple[str, ...]
    start: str


class Series:
    """Windows of time series in the eyes of ingestion."""

    columns: dict[str, Column] = {
        "values": (FILE, {"bytes": {"dtype": "binary", "_type": "Value"}, "path": TEXT[1]}),
        "steps": INT,
        "channels": INT,
        "start": TEXT,
    }

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        """Raises BadSample where the bytes are no window, a value is missing or infinite, or no channel ever changes."""
        window = decode(data)
        channels, steps = window.values.shape
        if not np.isfinite(window.values).all():
            raise BadSample(f"missing or infinite values: {_odd(window)}")
        if (window.values.max(1) == window.values.min(1)).all():
            raise BadSample(f"no signal: all {channels} channels are constant over {steps} steps")
        columns = {
            "values": {"bytes": data, "path": None}, "steps": steps, "channels": channels, "start": window.start
        }  # fmt: skip
        return Sample(identity(window.values), columns, {"steps": steps, "channels": channels})

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        return {"channels": max(tallies["channels"]), "sizes": ranges(tallies, "channels", "steps")}


def encode(values: np.ndarray, names: Sequence[str], start: str, max_missing: float = 0.1) -> bytes:
    """The bytes of a window `[channels, steps]`. NaN is interpolated linearly between a channel's neighbours, at the ends it
    takes the nearest value.

    Raises BadSample where more than `max_missing` of a channel's values are NaN, or one is infinite.
    """
    with np.errstate(over="ignore"):
        values = np.array(values, dtype="<f4", order="C", ndmin=2)
    window = Window(values, tuple(names), start)
    if np.isinf(values).any():
        raise BadSample(f"infinite values: {_odd(window)}")
    absent = np.isnan(values)
    share = absent.mean(1)
    if share.max() > max_missing:
        worst = int(share.argmax())
        raise BadSample(f"too many missing values: {share[worst]:.0%} of {names[worst]!r}, at most {max_missing:.0%}")
    steps = np.arange(values.shape[1])
    for channel in share.nonzero()[0]:
        known = ~absent[channel]
        values[channel, ~known] = np.interp(steps[~known], steps[known], values[channel, known])
    # one key: safetensors writes several in any order, and the same window must be the same bytes
    return save({"values": values}, {"series": json.dumps({"names": list(names), "start": start})})


def decode(data: bytes) -> Window:
    """Raises BadSample with the reason where `data` is not what `encode` writes."""
    if len(data) > MAX_BYTES:
        raise BadSample("oversized: a window above 1 GiB")
    try:
        tensors = dict(deserialize(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["series"])
        names, start = about["names"], about["start"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSample(f"not a window of a series: {' '.join(str(error).split())[:200]}") from error
    found = tensors.get("values")
    if found is None or found["dtype"] != "F32" or len(found["shape"]) != 2 or 0 in found["shape"]:
        raise BadSample("not a window of a series: expected float32 values [channels, steps]")
    values = np.frombuffer(found["data"], dtype="<f4").reshape(found["shape"])
    named = isinstance(names, list) and len(names) == len(values) and all(isinstance(n, str) for n in names)
    if not (named and isinstance(start, str)):
        raise BadSample("not a window of a series: expected a name for each channel and the first step's time")
    return Window(values, tuple(names), start)


def identity(values: np.ndarray) -> str:
    """BLAKE2b-128 of a window's shape and float32 values in hexadecimal, whatever its channels' names and time. 0 and -0 are
    the same value."""
    digest = hashlib.blake2b(f"{values.shape[0]}x{values.shape[1]} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values + np.float32(0), dtype="<f4").tobytes())
    return digest.hexdigest()


def _odd(window: Window) -> str:
    """Where the first value stands that is no number."""
    channel, step = np.argwhere(~np.isfinite(window.values))[0]
    return f"{window.values[channel, step]} at step {step} of {window.names[channel]!r}"
