"""SimCLR from JPEG files, source images a second: `python -m benchmarks.pretrain [--json]`, some six minutes.

Ours is the training loop as it is, from a pack (whose decoding is counted, spread over 100 epochs). The peer is Lightly's
transform, collate and NTXentLoss behind a DataLoader with two workers, on the same encoder, batch, view strength and
optimizer, in fp32 as its examples have it; then the same loader before our step (bf16, channels last). The limit is our
step on views that are already in memory: same model, loss, precision and compilation, nothing to load or to augment.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.data import LightlyDataset
from lightly.data.multi_view_collate import MultiViewCollate
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.race import Turn, race, repeat, report
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.part import late
from ssl_pipeline.pretext.contrast import nt_xent
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.loop import pretrain
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
    recipe = Recipe.model_validate(
        {
            "name": "race", "dataset": "photos", "encoder": setting["encoder"] | {"image_size": side},
            "pretext": {"task": "simclr"},
            "pretrain": {"epochs": 10_000, "batch_size": setting["batch_size"], "compile": setting["compile"], "log_every": 5},
        }
    )  # fmt: skip
    decoding = pack_photos(folder, side)
    contenders = {
        "ours": ours(recipe, folder),
        "lightly": lightly(recipe, folder, fast=False),
        "lightly's loader, our step": lightly(recipe, folder, fast=True),
        "limit": limit(recipe),
    }
    rates = race(contenders, rounds=4, seconds=8)
    mine = 1 / (1 / rates["ours"] + decoding / EPOCHS)
    return [
        {
            "peer": peer, "image_size": side, "encoder": setting["name"], "images_per_second": mine,
            "peer_images_per_second": rates[peer], "speedup": mine / rates[peer],
            "limit": rates["limit"], "of_limit": mine / rates["limit"],
        }
        for peer in ("lightly", "lightly's loader, our step")
    ]  # fmt: skip


def write_photos(folder: Path, side: int, count: int) -> None:
    """Crops of two real photographs as JPEG files of that side."""
    folder.mkdir()
    photos, random = load_sample_images().images, np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % 2]
        size = int(random.integers(side, 4 * side + 1))
        y, x = (random.integers(0, length - size + 1) for length in photo.shape[:2])
        crop = Image.fromarray(photo[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BOX)
        crop.save(folder / f"{i:05d}.jpg", quality=90)


def pack_photos(folder: Path, side: int) -> float:
    """Decodes the files into a training pack, as the chain does; returns seconds an image."""
    started = time.perf_counter()
    paths = sorted((folder / "photos").iterdir())
    pixels = np.stack([to_square(decode(path.read_bytes()), side, 3) for path in paths])
    np.save(folder / "train.npy", pixels)
    took = time.perf_counter() - started
    np.save(folder / "validation.npy", pixels[:256])
    return took / len(paths)


def ours(recipe: Recipe, folder: Path) -> Turn:
    """The loop itself, in a thread that stands still between its turns, held in the callback that takes its curves."""
    may_run, stands = threading.Event(), threading.Event()
    work: list[tuple[float, float]] = []
    until, resumed, last_step = [0.0], [0.0], [0]

    def log(row: dict[str, float]) -> None:
        now = time.perf_counter()
        if "loss" in row:
            work.append(((row["step"] - last_step[0]) * recipe.pretrain.batch_size, now - resumed[0]))
            last_step[0] = int(row["step"])
        if now > until[0]:
            may_run.clear()
            stands.set()
            may_run.wait()
        resumed[0] = time.perf_counter()  # what a turn leaves out: standing still, and validation

    def run() -> None:
        may_run.wait()
        resumed[0] = time.perf_counter()
        pretrain(recipe, Pack(folder, MEAN, STD), folder / "checkpoints", log)

    threading.Thread(target=run, daemon=True).start()

    def turn(seconds: float) -> tuple[float, float]:
        work.clear()
        stands.clear()
        until[0] = time.perf_counter() + seconds
        may_run.set()
        stands.wait()
        done, took = (sum(column) for column in zip(*work, strict=True))
        return done, took

    return turn


MEAN, STD = [0.45, 0.45, 0.45], [0.25, 0.25, 0.25]


def model_of(recipe: Recipe) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    encoder = build(recipe.encoder, 3, [0.0] * 3, [1.0] * 3)  # its images come normalised
    model = nn.Sequential(encoder, recipe.pretext.build_head(encoder))
    return model, torch.optim.AdamW(model.parameters(), lr=recipe.pretrain.learning_rate, weight_decay=0.05, fused=True)


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


def limit(recipe: Recipe) -> Turn:
    side, batch_size = recipe.encoder.image_size, recipe.pretrain.batch_size
    views = torch.randn(2 * batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    train = step_of(*model_of(recipe), recipe)
    return repeat(lambda: train(views.bfloat16()), batch_size)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Any:
    """Our step on views `[2 * batch, 3, side, side]`."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(views: torch.Tensor) -> torch.Tensor:
        return nt_xent(*model(views).chunk(2), recipe.pretext.temperature)  # type: ignore[attr-defined]

    late.settle()
    objective = torch.compile(loss_of, dynamic=False) if recipe.pretrain.compile else loss_of

    def train(views: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            objective(views.contiguous(memory_format=torch.channels_last)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


if __name__ == "__main__":
    main("--json" in sys.argv)
