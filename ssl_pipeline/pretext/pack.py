"""dataset -> training pack: every image decoded once, to one uint8 array a split that the loop maps into memory.

Where these arrays would take more than half of the free disk, the pack keeps the files as they were encoded instead, and
images are decoded when they are asked for: the same pixels, for more work.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssl_pipeline.ingest.dataset import rows
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.store import Stage, Store

CODE_VERSION = "1"
SPLITS = ("train", "validation", "test")
SHARE_OF_DISK = 0.5
"""Of the free disk: what decoded images may take."""


class EncodedImages:
    """Image files end to end in `SPLIT.bytes`; `images[indices or slice]` decodes them on all cores."""

    def __init__(self, path: Path, split: str) -> None:
        self.file = path / f"{split}.bytes"
        self.ends = np.load(path / f"{split}.ends.npy")
        form = json.loads((path / "encoded.json").read_text())
        self.side, self.channels = form["side"], form["channels"]
        self.shape = (len(self.ends), self.channels, self.side, self.side)
        self.nbytes = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """uint8 `[len(which), channels, side, side]`."""
        rows = np.arange(len(self))[which]
        out = np.empty((*rows.shape, *self.shape[1:]), np.uint8)
        for at, pixels in zip(np.ndindex(rows.shape), self.pool.map(self.decode, rows.ravel()), strict=True):
            out[at] = pixels
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[np.array([row])][0] for row in range(len(self)))

    def decode(self, row: int) -> np.ndarray:
        start = self.ends[row - 1] if row else 0
        return to_square(decode(self.encoded[start : self.ends[row]]), self.side, self.channels)

    @cached_property
    def encoded(self) -> mmap.mmap:
        with open(self.file, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), "decode")


Images = np.ndarray | EncodedImages


@dataclass(frozen=True)
class Pack:
    """A finished pack."""

    path: Path
    mean: list[float]
    std: list[float]

    @property
    def channels(self) -> int:
        return len(self.mean)

    def images(self, split: str) -> Images:
        """uint8 `[n, channels, side, side]`, read-only: an array mapped from disk, or files that indexing decodes."""
        if (self.path / f"{split}.npy").exists():
            return np.load(self.path / f"{split}.npy", mmap_mode="r")
        return EncodedImages(self.path, split)

    def index(self, split: str) -> pd.DataFrame:
        """Columns `sample_id`, `label` (or null), `source`, in the array's order."""
        return pd.read_parquet(self.path / f"{split}.parquet")


def build(store: Store, dataset: Stage, side: int, channels: int) -> Stage:
    """The pack of a dataset at one image size; recipes that agree on both share it.

    Memory is one chunk of images however large the dataset.
    """

    def pixels_of(row: dict[str, Any]) -> np.ndarray:
        return to_square(decode(row["image"]["bytes"]), side, channels)

    def write(folder: Path) -> dict[str, Any]:
        tree = dataset.path / "tree"
        counts = json.loads((tree / "dataset.json").read_text())["splits"]
        moments = np.zeros((2, channels))
        size = sum(counts[split] for split in SPLITS) * channels * side**2
        encoded = size > shutil.disk_usage(folder).free * SHARE_OF_DISK
        if encoded:
            (folder / "encoded.json").write_text(json.dumps({"side": side, "channels": channels}))
        for split in SPLITS:
            save = write_encoded if encoded else write_pixels
            index, at = [], 0
            with save(folder, split, (counts[split], channels, side, side)) as put:
                for chunk in chunks_of(rows(tree, split), 64):
                    with ThreadPoolExecutor(os.cpu_count()) as pool:
                        pixels = np.stack(list(pool.map(pixels_of, chunk)))
                    put(at, pixels, chunk)
                    at += len(chunk)
                    if split == "train":
                        block = pixels.astype(np.float64) / 255
                        moments += block.mean((2, 3)).sum(0), np.square(block).mean((2, 3)).sum(0)
                    index += [{k: row[k] for k in ("sample_id", "label", "source")} for row in chunk]
            pd.DataFrame(index, columns=["sample_id", "label", "source"]).to_parquet(folder / f"{split}.parquet")
        mean, square = moments / counts["train"]
        std = np.sqrt(np.maximum(square - mean**2, 1e-4))
        return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist(), "side": side, "splits": counts}

    config = {"side": side, "channels": channels}
    return store.build("pack", config, {"dataset": dataset.summary["digest"]}, CODE_VERSION, write)


Put = Callable[[int, np.ndarray, list[dict[str, Any]]], None]


@contextmanager
def write_pixels(folder: Path, split: str, shape: tuple[int, ...]) -> Iterator[Put]:
    array = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.uint8, shape)

    def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
        array[at : at + len(pixels)] = pixels

    yield put
    array.flush()


@contextmanager
def write_encoded(folder: Path, split: str, shape: tuple[int, ...]) -> Iterator[Put]:
    lengths: list[int] = []
    with open(folder / f"{split}.bytes", "wb") as file:

        def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
            lengths.extend(file.write(row["image"]["bytes"]) for row in chunk)

        yield put
    np.save(folder / f"{split}.ends.npy", np.cumsum(lengths, dtype=np.int64))


def open_pack(stage: Stage) -> Pack:
    return Pack(stage.path, stage.summary["mean"], stage.summary["std"])


def chunks_of(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk
