"""Interactions -> dataset: who chose what, when, as a sequence a user; the last two of each are held out.

The protocol, which decides every number that is measured on such data:
- Of repeats of a user and an item the earliest is kept: an evaluation never recommends what was seen, so a repeat could not be
  asked for. The others go to quarantine.
- Interactions are ordered by time; those of one instant stay in the source's order. That matters: three quarters of
  MovieLens-100k share their second with another of the same user (`tied`), and ordering those by item instead nearly halves
  every method's score.
- Users and items with fewer than `k_core` interactions are left out until none is left to leave out. Held-out interactions
  count, as they do in published results, so an item may be left that no one chose in the training split: the summary counts
  the held-out interactions that ask for one (`cold`).
- A user's last interaction is the test split's, the one before it the validation split's (leave-one-out by time).
Numbers of users and items are in the order of their identifiers as strings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssl_pipeline.ingest import catalogue, columns
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import write_json

LEAST = 3
"""Interactions a user: one for each split."""
GROUP_ROWS = 1 << 20
REASONS = (
    "",
    "malformed row",
    "no user",
    "no item",
    "no timestamp",
    "unreadable timestamp",
    "unreadable rating",
    "duplicate",
)
FEATURES = {
    "user": {"dtype": "string", "_type": "Value"},
    "item": {"dtype": "string", "_type": "Value"},
    "timestamp": {"dtype": "float64", "_type": "Value"},
    "rating": {"dtype": "float64", "_type": "Value"},
}
SCHEMA = pa.schema(
    [("user", pa.string()), ("item", pa.string()), ("timestamp", pa.float64()), ("rating", pa.float64())],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)


@dataclass
class Events:
    """Interactions as columns of one length. `user` and `item` are numbers into `users` and `items`."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray
    row: np.ndarray
    """Number in the source, from 1."""
    users: list[str]
    items: list[str]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> Events:
        """Those where `which` is true, or at its indices in their order."""
        parts = {name: getattr(self, name)[which] for name in ("user", "item", "time", "rating", "row")}
        return replace(self, **parts)


def write(
    source: InteractionsSource, tree: Path, root: Path = Path(), name: str = "", max_quarantined: float = 0.1
) -> dict[str, Any]:
    """Fills `tree` with `{train,validation,test}-00000.parquet` (user, item, timestamp, rating; users in order, each one's
    interactions in order), items.parquet, quarantine.parquet and dataset.json. Returns the stage's summary, whose `samples`
    are users and whose `splits` count interactions.

    Memory is about 250 bytes an interaction, time a few seconds a million. Raises PipelineError where the source is missing
    or malformed, more of it is unusable than `max_quarantined` (repeats do not count), or the k-core is empty.
    """
    tree.mkdir(exist_ok=True)
    events, fault, malformed = read(source, root / Path(source.path).expanduser())
    total = len(events) + len(malformed)
    liked = np.ones(len(events), bool) if source.min_rating is None else events.rating >= source.min_rating
    fault[repeated(events, liked & (fault == 0))] = REASONS.index("duplicate")
    reasons = quarantine(events, fault, malformed, tree)
    refuse(source, total, reasons, max_quarantined)
    usable = events.take(liked & (fault == 0))
    core = usable.take(k_core(usable, source.k_core))
    if not len(core):
        raise PipelineError(f"k_core {source.k_core} leaves none of {len(usable)} interactions: lower it or add data")
    core = core.take(in_sequence(core))
    split, chosen = splits_of(core), np.bincount(core.item, minlength=len(core.items))
    for number, wanted in enumerate(SPLITS):
        write_split(core.take(split == number), tree / f"{wanted}-00000.parquet")
    known = np.bincount(core.item[split == 0], minlength=len(core.items)) > 0
    described = catalogue.write(source, root, core.items, chosen, tree)
    users, items = len(np.unique(core.user)), int((chosen > 0).sum())
    about = {
        "name": name, "modality": "interactions", "samples": users, "items": items, "interactions": len(core),
        "splits": {wanted: int((split == number).sum()) for number, wanted in enumerate(SPLITS)},
        "density": round(len(core) / (users * items), 6), "k_core": source.k_core,
        "cold": {SPLITS[held]: int((~known[core.item[split == held]]).sum()) for held in (1, 2)},
        "tied": round(tied(core), 4), "described": described, "classes": None, "labelled": 0,
        "filtered": {
            k: v for k, v in (
                ("rated too low", int((fault == 0).sum() - len(usable))), ("k-core", len(usable) - len(core))
            ) if v
        },
        "quarantined": sum(reasons.values()), "format": 1,
    }  # fmt: skip
    write_json(tree / "dataset.json", about)
    unusable = sum(count for reason, count in reasons.items() if reason != "duplicate")
    return about | {"quarantined_fraction": round(unusable / total, 6), "reasons": reasons}


def read(source: InteractionsSource, path: Path) -> tuple[Events, np.ndarray, np.ndarray]:
    """All rows of the source, each one's fault as a number into REASONS (0: none), and the numbers of malformed rows."""
    wanted = {"user": source.user, "item": source.item, "timestamp": source.timestamp}
    wanted |= {"rating": source.rating} if source.rating else {}
    found = columns.read(path, wanted, ids=("user", "item"))
    user, users = columns.identifiers(found.table["user"], f"{path}: user")
    item, items = columns.identifiers(found.table["item"], f"{path}: item")
    time, timed = columns.numbers(found.table["timestamp"], f"{path}: timestamp", dates=True)
    rating, rated = np.full(len(time), np.nan), np.zeros(len(time), bool)
    if source.rating:
        rating, rated = columns.numbers(found.table["rating"], f"{path}: rating")
    faults = [user < 0, item < 0, ~timed, np.isnan(time), rated & np.isnan(rating)]
    fault = np.select(faults, np.arange(2, 7), 0).astype(np.int8)
    return Events(user, item, time, rating, found.row, users, items), fault, found.malformed


def repeated(events: Events, among: np.ndarray) -> np.ndarray:
    """Indices of the interactions that repeat an earlier one of the same user and item; of equal times the first in the
    source is the earlier one."""
    order = np.flatnonzero(among)
    order = order[np.argsort(events.time[order], kind="stable")]
    pair = events.user[order].astype(np.int64) * len(events.items) + events.item[order]
    return order[pd.Series(pair).duplicated().to_numpy()]


def k_core(events: Events, k: int) -> np.ndarray:
    """Indices of what is left when users and items with too few interactions go, until all have enough."""
    kept = np.arange(len(events))
    while True:
        user, item = events.user[kept], events.item[kept]
        enough = (np.bincount(user)[user] >= max(k, LEAST)) & (np.bincount(item)[item] >= k)
        if enough.all():
            return kept
        kept = kept[enough]


def in_sequence(events: Events) -> np.ndarray:
    """Their order by user, then time, then place in the source."""
    order = np.argsort(events.time, kind="stable")
    return order[np.argsort(events.user[order], kind="stable")]


def splits_of(events: Events) -> np.ndarray:
    """Of interactions in sequence: 2 (test) for a user's last, 1 (validation) for the one before, 0 (train) for the rest."""
    end = np.cumsum(np.bincount(events.user))[events.user]
    after = end - 1 - np.arange(len(events))
    return np.maximum(0, 2 - after)


def tied(events: Events) -> float:
    """Share of interactions in sequence that have the time of another one of their user."""
    same = (np.diff(events.time) == 0) & (np.diff(events.user) == 0)
    return float((np.append(same, False) | np.append(False, same)).mean())


def write_split(events: Events, path: Path) -> None:
    users, items = pa.array(events.users, pa.string()), pa.array(events.items, pa.string())
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for at in range(0, len(events), GROUP_ROWS):
            part = events.take(np.arange(at, min(at + GROUP_ROWS, len(events))))
            named = [pa.DictionaryArray.from_arrays(part.user, users), pa.DictionaryArray.from_arrays(part.item, items)]
            measured = [pa.array(part.time), pa.array(part.rating, from_pandas=True)]
            writer.write_table(pa.table([*(column.cast(pa.string()) for column in named), *measured], schema=SCHEMA))


def quarantine(events: Events, fault: np.ndarray, malformed: np.ndarray, tree: Path) -> dict[str, int]:
    """Writes quarantine.parquet (source, reason) in the source's order; returns counts by reason, the commonest first."""
    bad = fault > 0
    row = np.concatenate([events.row[bad], malformed])
    why = np.concatenate([fault[bad], np.full(len(malformed), REASONS.index("malformed row"), np.int8)])
    order = np.argsort(row)
    source = pc.binary_join_element_wise("row", pa.array(row[order]).cast(pa.string()), " ")
    reason = pa.DictionaryArray.from_arrays(pa.array(why[order]), pa.array(REASONS)).cast(pa.string())
    schema = pa.schema([("source", pa.string()), ("reason", pa.string())])
    pq.write_table(pa.table([source, reason], schema=schema), tree / "quarantine.parquet", compression="zstd")
    counts = np.bincount(why, minlength=len(REASONS))
    return {REASONS[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}


def refuse(source: InteractionsSource, total: int, reasons: dict[str, int], max_quarantined: float) -> None:
    if total == 0:
        raise PipelineError(f"{source.path}: holds no rows: correct the source's path")
    bad = sum(count for reason, count in reasons.items() if reason != "duplicate")
    if bad > max_quarantined * total:
        commonest = ", ".join(f"{reason} ({count})" for reason, count in list(reasons.items())[:3])
        raise PipelineError(
            f"{bad} of {total} rows are unusable, more than max_quarantined {max_quarantined:g} allows: {commonest}; fix "
            "the rows, name other columns or raise max_quarantined"
        )
