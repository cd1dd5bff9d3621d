"""dataset -> training pack: every image decoded once, to one uint8 array a split that the loop maps into memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Pack:
    """A finished pack."""

    path: Path
    mean: list[float]
    std: list[float]

    @property
    def channels(self) -> int:
        return len(self.mean)

    def images(self, split: str) -> np.ndarray:
        """uint8 `[n, channels, side, side]`, read-only and memory-mapped."""
        return np.load(self.path / f"{split}.npy", mmap_mode="r")

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
        for split in SPLITS:
            array = np.lib.format.open_memmap(
                folder / f"{split}.npy", "w+", np.uint8, (counts[split], channels, side, side)
            )
            index, at = [], 0
            for chunk in chunks_of(rows(tree, split), 64):
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    for pixels in pool.map(pixels_of, chunk):
                        array[at] = pixels
                        at += 1
                if split == "train":
                    block = array[at - len(chunk) : at].astype(np.float64) / 255
                    moments += block.mean((2, 3)).sum(0), np.square(block).mean((2, 3)).sum(0)
                index += [{k: row[k] for k in ("sample_id", "label", "source")} for row in chunk]
            array.flush()
            pd.DataFrame(index, columns=["sample_id", "label", "source"]).to_parquet(folder / f"{split}.parquet")
        mean, square = moments / counts["train"]
        std = np.sqrt(np.maximum(square - mean**2, 1e-4))
        return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist(), "side": side, "splits": counts}

    config = {"side": side, "channels": channels}
    return store.build("pack", config, {"dataset": dataset.summary["digest"]}, CODE_VERSION, write)


def open_pack(stage: Stage) -> Pack:
    return Pack(stage.path, stage.summary["mean"], stage.summary["std"])


def chunks_of(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk
