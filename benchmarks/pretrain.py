"""SimCLR from JPEG files, source images a second: `python -m benchmarks.pretrain [--json]`, some eight minutes.

Ours is the training loop as it is, from a pack (whose decoding is counted, spread over 100 epochs). The peer is Lightly's
transform, collate and NTXentLoss behind a DataLoader with two workers, on the same encoder, batch, view strength and
optimizer, in fp32 as its examples have it; then the same loader before our step (bf16, channels last). The limit is our
step on views that are already in memory: same model, loss, precision and compilation, nothing to load or to augment.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightly.data import LightlyDataset
from lightly.data.multi_view_collate import MultiViewCollate
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from torch.utils.data import DataLoader

from benchmarks.race import Turn, race, repeat, report
from benchmarks.simclr import MEAN, STD, limit, model_of, ours, pack_photos, recipe_of, step_of, write_photos
from ssl_pipeline.recipe import Recipe

EPOCHS = 100
"""Over which the pack's decoding is spread."""
RACES = {
    32: {
        "name": "small resnet (1,1,1,1 blocks of 16-32-64-128)",
        "encoder": {"backbone": "resnet18", "options": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}, "stem": "half"},
        "batch_size": 256, "images": 5120, "compile": True,
    },
    96: {"name": "resnet18", "encoder": {"backbone": "resnet18", "stem": "default"},
         "batch_size": 64, "images": 1280, "compile": False},
}  # fmt: skip


def main(as_json: bool) -> None:
    for side, setting in RACES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = compare(side, setting, Path(folder))
        report("SimCLR, source images a second (two views each), end to end from JPEG files", rows, as_json)


def compare(side: int, setting: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    write_photos(folder / "photos", side, setting["images"])
    recipe = recipe_of(setting["encoder"], side, setting["batch_size"], setting["compile"])
    decoding = pack_photos(folder, side)
    contenders = {
        "ours": partial(ours, recipe, folder),
        "limit": partial(limit, recipe),
        "lightly": partial(lightly, recipe, folder, fast=False),
        "lightly's loader, our step": partial(lightly, recipe, folder, fast=True),
    }
    rates = race(contenders, rounds=3, seconds=10, asleep=("lightly", "lightly's loader, our step"))
    mine = 1 / (1 / rates["ours"] + decoding / EPOCHS)
    return [
        {
            "peer": peer, "image_size": side, "encoder": setting["name"], "images_per_second": mine,
            "peer_images_per_second": rates[peer], "speedup": mine / rates[peer],
            "limit": rates["limit"], "of_limit": mine / rates["limit"],
        }
        for peer in ("lightly", "lightly's loader, our step")
    ]  # fmt: skip


def lightly(recipe: Recipe, folder: Path, fast: bool) -> Turn:
    """Its loader and loss; `fast` puts our step behind the loader."""
    side, batch_size = recipe.encoder.image_size, recipe.pretrain.batch_size
    transform = SimCLRTransform(
        input_size=side, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.5 if side >= 64 else 0.0,
        sigmas=(0.1 * side / 224, 2.0 * side / 224), normalize={"mean": MEAN, "std": STD},
    )  # fmt: skip
    loader = DataLoader(
        LightlyDataset(str(folder / "photos"), transform=transform), batch_size, shuffle=True, drop_last=True,
        num_workers=2, persistent_workers=True, collate_fn=MultiViewCollate(),
    )  # fmt: skip

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()
    model, optimizer = model_of(recipe)
    loss_of = NTXentLoss(temperature=recipe.pretext.temperature)  # type: ignore[attr-defined]
    train = step_of(model, optimizer, recipe) if fast else None

    def step() -> None:
        views = next(batches)[0]
        if train:
            train(torch.cat(views))
            return
        loss = loss_of(model(views[0]), model(views[1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return repeat(step, batch_size)


if __name__ == "__main__":
    main("--json" in sys.argv)
