"""Pretext labels of an epoch: drawn by seed, so that the table that a person sees is what the loop trains on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.pretext.pack import Arrays, Pack, rows_in, take
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.recipe import Recipe

VALIDATION = -1
"""The epoch whose labels the validation split always has: its curve must not move with the draw."""


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A generator of its own for each place (an epoch, a split): nothing depends on what was drawn before."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(task: PretextTask, encoder: EncoderPart, count: int, seed: int, split: str, epoch: int) -> Labels:
    """The labels of `count` samples of a split, in the pack's order, for one epoch."""
    return task.draw(count, encoder, generator(seed, "labels", split, epoch))


def write_table(recipe: Recipe, pack: Pack, path: Path) -> dict[str, Any]:
    """Writes the first epoch's training labels and the validation labels as Parquet: `sample_id`, `split`, the task's
    columns. Returns the number of rows a split and, where the task has classes, their balance."""
    tables, task = [], recipe.pretext
    for split, epoch in (("train", 0), ("validation", VALIDATION)):
        ids, rows = pack.index(split)["sample_id"].to_numpy(), rows_in(trained_on(task, pack, split))
        table = task.table(draw(task, recipe.encoder, rows, recipe.pretrain.seed, split, epoch))
        # rows that are no samples, such as blocks of text, go by their number
        names = ids if len(ids) == rows else np.array([f"{split} row {i}" for i in range(rows)])
        table.insert(0, "sample_id", np.repeat(names, len(table) // rows))
        table.insert(1, "split", split)
        tables.append(table)
    labels = pd.concat(tables, ignore_index=True)
    labels.to_parquet(path)
    balance = labels["label"].value_counts().sort_index().to_dict() if "label" in labels else None
    return {"splits": labels["split"].value_counts().to_dict(), "balance": balance}


def sheet(
    recipe: Recipe, encoder: Encoder, pack: Pack, count: int = 8
) -> tuple[np.ndarray | list[list[str]], list[str], list[str]]:
    """Samples from all over the training split and what the task makes of them: images `[rows, columns, channels, height,
    width]` in 0..1, or rows of text; with the titles of the columns and the rows."""
    task, stored = recipe.pretext, trained_on(recipe.pretext, pack, "train")
    rows = rows_in(stored)
    labels = draw(task, recipe.encoder, rows, recipe.pretrain.seed, "train", 0)
    chosen = np.linspace(0, rows - 1, min(count, rows)).astype(int)  # a source is often sorted by class
    with torch.no_grad():
        inputs = encoder.eval().read({name: torch.from_numpy(part) for name, part in take(stored, chosen).items()})
        shown = {name: value[chosen] for name, value in labels.items()}
        picture, titles = task.picture(encoder, inputs, shown), task.row_titles(encoder, inputs, shown)
    images_or_texts = picture if isinstance(picture, list) else picture.float().clamp(0, 1).numpy()
    return images_or_texts, task.columns(), titles


def trained_on(task: PretextTask, pack: Pack, split: str) -> Arrays:
    """The rows of a split that the task is trained on."""
    return pack.training(split) if task.trains_on == "rows" else pack.samples(split)
