"""Pretext labels of an epoch: drawn by seed, so that the table that a person sees is what the loop trains on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.recipe import Encoder

VALIDATION = -1
"""The epoch whose labels the validation split always has: its curve must not move with the draw."""


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A generator of its own for each place (an epoch, a split): nothing depends on what was drawn before."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(task: PretextTask, encoder: Encoder, count: int, seed: int, split: str, epoch: int) -> Labels:
    """The labels of `count` samples of a split, in the pack's order, for one epoch."""
    return task.draw(count, encoder, generator(seed, "labels", split, epoch))


def write_table(task: PretextTask, encoder: Encoder, pack: Pack, seed: int, path: Path) -> dict[str, Any]:
    """Writes the first epoch's training labels and the validation labels as Parquet: `sample_id`, `split`, the task's
    columns. Returns the number of rows a split and, where the task has classes, their balance."""
    tables = []
    for split, epoch in (("train", 0), ("validation", VALIDATION)):
        ids = pack.index(split)["sample_id"].to_numpy()
        table = task.table(draw(task, encoder, len(ids), seed, split, epoch))
        table.insert(0, "sample_id", np.repeat(ids, len(table) // len(ids)))
        table.insert(1, "split", split)
        tables.append(table)
    labels = pd.concat(tables, ignore_index=True)
    labels.to_parquet(path)
    balance = labels["label"].value_counts().sort_index().to_dict() if "label" in labels else None
    return {"splits": labels["split"].value_counts().to_dict(), "balance": balance}


def sheet(task: PretextTask, encoder: Encoder, pack: Pack, seed: int, count: int = 8) -> np.ndarray:
    """Images from all over the training split and what the task makes of them: float `[rows, columns, channels, side,
    side]` in 0..1."""
    images = pack.images("train")
    labels = draw(task, encoder, len(images), seed, "train", 0)
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)  # a source is often sorted by class
    shown = torch.from_numpy(images[chosen]).float() / 255
    return task.picture(shown, {name: value[chosen] for name, value in labels.items()}).clamp(0, 1).numpy()
