"""interactions -> sequences of item numbers: a history a user to embed, windows of the histories to train on.

    SPLIT.items.npy            int32 [users, length]: what was known before the split's held-out item (train: before the last
                               training item), left-padded with 0; items are numbers from 1 to N
    SPLIT.target.npy           int32 [users]: that item
    SPLIT.training.items.npy   int32 [windows, length + 1 if causal else length]; a negative number is an item that is seen
                               but not asked for
    history.{user,item,time}.npy   all interactions in sequence, the last two of each user being held out
    vocabulary.parquet         `number` and `item`, its identifier

Training windows together ask for every item of a training sequence once (of a causal encoder but the first, which nothing comes
before). The validation split's windows ask for the held-out item alone, so its loss is that of a prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder

CHUNK = 65536
"""Windows that are made at a time."""
HELD_OUT = {"train": 3, "validation": 2, "test": 1}
"""The place of a split's target in a user's sequence, from the end."""
MOST_NAMES = 5000
"""Items up to which their names travel with the encoder."""


def write(tree: Path, folder: Path, settings: InteractionsEncoder) -> dict[str, Any]:
    """Fills `folder`; returns the number of `items`, and their `names` where there are few."""
    known = [name for name in ("item", "title") if name in pq.read_schema(tree / "items.parquet").names]
    catalogue = pq.read_table(tree / "items.parquet", columns=known)
    items = catalogue["item"]
    user, item, time, users = sequences(tree, items)
    for name, values in (("user", user), ("item", item), ("time", time)):
        np.save(folder / f"history.{name}.npy", values)
    numbers = np.arange(1, len(items) + 1, dtype=np.int32)
    pd.DataFrame({"number": numbers, "item": items.to_pylist()}).to_parquet(folder / "vocabulary.parquet")
    end = np.cumsum(np.bincount(user))
    start = np.append(0, end[:-1])
    nobody = [None] * len(users)
    for split in SPLITS:
        target = end - HELD_OUT[split]
        cut(folder / f"{split}.items.npy", item, start, target, settings.length)
        np.save(folder / f"{split}.target.npy", item[target])
        index = pd.DataFrame({"sample_id": users, "label": nobody, "group": nobody, "source": users})
        index.astype("string").to_parquet(folder / f"{split}.parquet")
    windows(folder, settings, item, start, end)
    facts: dict[str, Any] = {"items": len(items)}
    if len(items) <= MOST_NAMES:
        facts["names"] = pc.coalesce(catalogue[known[-1]], items).to_pylist()
    return facts


def sequences(tree: Path, items: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """All interactions by user, each one's in order: numbers of users (from 0) and items (from 1), times; and the users'
    identifiers."""
    parts = []
    for split in SPLITS:
        shards = sorted(tree.glob(f"{split}-*.parquet"))
        if not shards:
            raise PipelineError(f"{tree}: holds no {split} shards: build the dataset again")
        parts.append(pa.concat_tables(pq.read_table(shard, columns=["user", "item", "timestamp"]) for shard in shards))
    users = pc.sort_indices(parts[2]["user"])  # each has one interaction in the test split
    users = parts[2]["user"].take(users)
    table = pa.concat_tables(parts)
    user = pc.index_in(table["user"], users).to_numpy().astype(np.int32)
    item = pc.index_in(table["item"], items).to_numpy().astype(np.int32) + 1
    order = np.argsort(user, kind="stable")  # train, validation, test: already in order within a user
    return user[order], item[order], table["timestamp"].to_numpy()[order], users.to_pylist()


def windows(folder: Path, settings: InteractionsEncoder, item: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """The training rows of the train and validation splits. A window begins where the one after it begins to ask, so that
    none asks twice; the earliest is filled up."""
    first = 1 if settings.causal else 0  # the first of a window is read and not asked for
    width = settings.length + first
    last = end - HELD_OUT["validation"]  # exclusive end of the training sequence, and the validation item
    count = np.maximum(1, -(-(last - start - first) // settings.length))
    sequence = np.repeat(np.arange(len(start)), count)
    back = np.arange(len(sequence)) - np.repeat(np.cumsum(count) - count, count)
    stop = last[sequence] - back * settings.length
    cut(folder / "train.training.items.npy", item, start[sequence], stop, width)
    held = cut(folder / "validation.training.items.npy", item, start, last + 1, width)
    held[:, :-1] *= -1
    held.flush()


def cut(path: Path, item: np.ndarray, start: np.ndarray, stop: np.ndarray, width: int) -> np.memmap:
    """Writes `[len(stop), width]`: for each row the items before `stop`, from `start` on, the latest, left-padded with 0."""
    rows = np.lib.format.open_memmap(path, "w+", np.int32, (len(stop), width))
    for at in range(0, len(stop), CHUNK):
        places = stop[at : at + CHUNK, None] - np.arange(width, 0, -1)
        rows[at : at + CHUNK] = np.where(places >= start[at : at + CHUNK, None], item[np.maximum(places, 0)], 0)
    rows.flush()
    return rows


def item_features(features: Path, folder: Path) -> dict[str, Any]:
    """features of the items' texts or pictures -> `item_features.npy` `[N + 2, dim]`, standardised over items; 0 for the padding,
    the mask and items without. Of several samples of one item (its `group`) the mean counts.

    Raises PipelineError where no sample is of an item of this pack.
    """
    table = pq.read_table(features / "features.parquet", columns=["group", "embedding"])
    items = pq.read_table(folder / "vocabulary.parquet", columns=["item"])["item"]
    place = pc.fill_null(pc.index_in(table["group"], items), -1).to_numpy() + 1
    known = place > 0
    if not known.any():
        raise PipelineError(
            f"encoder.item_features: no sample's group is one of the {len(items)} items: let `group` of the features' dataset name "
            "the column with the items' identifiers"
        )
    embedding = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(place), -1)[known]
    mean = pd.DataFrame(embedding).groupby(place[known]).mean()
    deviation = mean.std(ddof=0).replace(0, 1)
    out = np.zeros((len(items) + 2, embedding.shape[1]), np.float32)
    out[mean.index] = (mean - mean.mean()) / deviation
    np.save(folder / "item_features.npy", out)
    return {"dim": embedding.shape[1], "file": "item_features.npy"}
