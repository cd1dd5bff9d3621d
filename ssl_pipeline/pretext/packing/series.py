"""windows of time series -> float32 arrays of one length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_pipeline.ingest.series import Window, decode
from ssl_pipeline.ingest.shards import SPLITS, rows
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import chunks_of, write_index

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_series import SeriesEncoder


def write(tree: Path, folder: Path, settings: SeriesEncoder) -> dict[str, Any]:
    """Fills `folder` with array `values` `[n, channels, length]`. Returns the channels' number and `names`, their `mean` and
    `std` over the training split, and the `length`. Memory is one chunk of windows however large the dataset.

    Raises PipelineError where windows differ in their channels.
    """
    counts = json.loads((tree / "dataset.json").read_text())["splits"]
    names: tuple[str, ...] | None = None
    moments = Moments()
    for split in SPLITS:
        index, at, array = [], 0, None
        for chunk in chunks_of(rows(tree, split), 64):
            windows = [decode(row["values"]["bytes"]) for row in chunk]
            names = names or windows[0].names
            refuse_other_channels(windows, chunk, names)
            values = np.stack([to_length(window.values, settings.length, settings.fit) for window in windows])
            if array is None:
                shape = (counts[split], len(names), settings.length)
                array = np.lib.format.open_memmap(folder / f"{split}.values.npy", "w+", np.float32, shape)
            array[at : at + len(chunk)] = values
            at += len(chunk)
            if split == "train":
                moments.add(values)
            for row in chunk:
                del row["values"]
            index += chunk
        if array is not None:
            array.flush()
        write_index(folder, split, index)
    assert names is not None
    return {
        "channels": len(names), "names": list(names), "length": settings.length, "mean": moments.mean.tolist(),
        "std": moments.deviation().tolist(),
    }  # fmt: skip


def packer(settings: SeriesEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> float32 `[channels, length]`. Raises PipelineError where its channels are not the encoder's."""

    def pack(row: dict[str, Any]) -> np.ndarray:
        window = decode(row["values"]["bytes"])
        refuse_other_channels([window], [row], tuple(facts["names"]))
        return to_length(window.values, settings.length, settings.fit)

    return pack


def to_length(values: np.ndarray, length: int, fit: str) -> np.ndarray:
    """`[channels, steps]` -> `[channels, length]`: stretched linearly, or its middle, or with its last value repeated."""
    steps = values.shape[1]
    if steps == length:
        return values
    if fit == "stretch":
        at = np.linspace(0, steps - 1, length)
        return np.stack([np.interp(at, np.arange(steps), channel) for channel in values]).astype(np.float32)
    if steps > length:
        start = (steps - length) // 2
        return values[:, start : start + length]
    return np.pad(values, ((0, 0), (0, length - steps)), mode="edge")


class Moments:
    """Mean and deviation by channel of arrays that come one after the other, combined as Chan, Golub and LeVeque 1979 do:
    sums of squares lose a small deviation about a large mean."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = np.zeros(1)

    def add(self, values: np.ndarray) -> None:
        """`[n, channels, steps]`"""
        block = values.astype(np.float64)
        mean, count = block.mean((0, 2)), block.shape[0] * block.shape[2]
        squares = np.square(block - mean[:, None]).sum((0, 2))
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def deviation(self) -> np.ndarray:
        """1 for a channel that is constant up to float32's precision."""
        deviation = np.sqrt(self.squares / self.count)
        return np.where(deviation > 1e-6 * np.abs(self.mean), deviation, 1.0)


def refuse_other_channels(windows: list[Window], chunk: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    for window, row in zip(windows, chunk, strict=True):
        if window.names != names:
            raise PipelineError(
                f"{row['source']!r} has channels {', '.join(window.names)} where the first window has {', '.join(names)}: "
                "make a dataset of each"
            )
