"""dataset -> training pack: every sample decoded once, to arrays that the loop maps into memory.

SPLIT.ARRAY.npy            one or more arrays with a row a sample (or SPLIT.bytes, encoded images)
SPLIT.training.ARRAY.npy   what is trained on, where that is not the samples: blocks of text, several clips of a video
SPLIT.parquet              sample_id, label, group, source, in the arrays' order
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.store import Stage, Store

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import EncoderPart

CODE_VERSION = "3"


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


Stored = np.ndarray | EncodedImages
Arrays = dict[str, Stored]
"""Rows of one or more arrays, by name; all have as many rows."""


@dataclass(frozen=True)
class Pack:
    """A finished pack."""

    path: Path
    facts: dict[str, Any]
    """What the encoder has to know of the data, such as the number of channels and their mean."""

    @property
    def given(self) -> dict[str, Any]:
        """What an encoder is built from: the facts, and where the files are that they name."""
        return self.facts | {"folder": str(self.path)}

    def samples(self, split: str) -> Arrays:
        """One row a sample, in the index's order, read-only: arrays mapped from disk, or files that indexing decodes."""
        if (self.path / f"{split}.bytes").exists():
            return {"image": EncodedImages(self.path, split)}
        return {
            path.name.split(".")[1]: np.load(path, mmap_mode="r")
            for path in sorted(self.path.glob(f"{split}.*.npy"))
            if path.name.count(".") == 2
        }

    def training(self, split: str) -> Arrays:
        """What a task is trained on: the samples, unless the packing made other rows."""
        other = sorted(self.path.glob(f"{split}.training.*.npy"))
        return {path.name.split(".")[2]: np.load(path, mmap_mode="r") for path in other} or self.samples(split)

    def index(self, split: str) -> pd.DataFrame:
        """Columns `sample_id`, `label` (or null), `group` (or null), `source`, in the samples' order."""
        return pd.read_parquet(self.path / f"{split}.parquet")


def rows_in(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def take(arrays: Arrays, which: slice | np.ndarray) -> dict[str, np.ndarray]:
    """These rows of every array, copied into memory."""
    return {name: np.array(stored[which]) for name, stored in arrays.items()}


def build(store: Store, dataset: Stage, settings: EncoderPart, item_features: Stage | None = None) -> Stage:
    """The pack of a dataset for one kind of encoder; recipes that agree on its packing share it. `item_features` are those of
    another recipe that describe the items of this one."""
    inputs = {"dataset": dataset.summary["digest"]}
    if item_features:
        inputs["item_features"] = item_features.key

    def write(folder: Path) -> dict[str, Any]:
        packing = import_module(f"ssl_pipeline.pretext.packing.{settings.kind}")
        facts = packing.write(dataset.path / "tree", folder, settings)
        if item_features:
            facts["item_features"] = packing.item_features(item_features.path, folder)
        return {"facts": facts}

    return store.build("pack", settings.packing(), inputs, CODE_VERSION, write)


def open_pack(stage: Stage) -> Pack:
    return Pack(stage.path, stage.summary["facts"])


def write_index(folder: Path, split: str, rows: Iterable[dict[str, Any]]) -> None:
    """Writes `SPLIT.parquet` from the rows of the shards."""
    columns = ["sample_id", "label", "group", "source"]
    pd.DataFrame(([row[c] for c in columns] for row in rows), columns=columns).to_parquet(folder / f"{split}.parquet")


def chunks_of(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk
