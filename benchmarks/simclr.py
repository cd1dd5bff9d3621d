"""What the races of SimCLR share: photos, a pack of them, our loop as it is, and the limit of pure compute."""

from __future__ import annotations

import os
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from benchmarks.race import Turn, repeat
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.part import late
from ssl_pipeline.pretext.contrast import nt_xent
from ssl_pipeline.pretext.pack import Pack, rows_in
from ssl_pipeline.pretrain.compute import mixed_precision, pick_device
from ssl_pipeline.pretrain.loop import pretrain
from ssl_pipeline.recipe import Recipe

MEAN, STD = [0.45, 0.45, 0.45], [0.25, 0.25, 0.25]


def recipe_of(encoder: dict[str, Any], side: int, batch_size: int, compiled: bool) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "race", "dataset": "photos", "encoder": encoder | {"image_size": side}, "pretext": {"task": "simclr"},
            "pretrain": {"epochs": 10_000, "batch_size": batch_size, "compile": compiled},
        }
    )  # fmt: skip


def write_photos(folder: Path, side: int, count: int) -> None:
    """Crops of two real photographs as JPEG files of that side."""
    folder.mkdir()
    photos, random = load_sample_images().images, np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % 2]
        size = int(random.integers(side, min(4 * side, min(photo.shape[:2])) + 1))
        y, x = (random.integers(0, length - size + 1) for length in photo.shape[:2])
        crop = Image.fromarray(photo[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BOX)
        crop.save(folder / f"{i:05d}.jpg", quality=90)


def pack_photos(folder: Path, side: int) -> float:
    """Decodes the files into a training pack, on all cores as the chain does; returns seconds an image."""
    started = time.perf_counter()
    paths = sorted((folder / "photos").iterdir())
    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(lambda path: to_square(decode(path.read_bytes()), side, 3), paths)))
    np.save(folder / "train.image.npy", pixels)
    took = time.perf_counter() - started
    np.save(folder / "validation.image.npy", pixels[:256])
    return took / len(paths)


def ours(recipe: Recipe, folder: Path) -> Turn:
    """The loop itself, in a thread that stands still between its turns, held in the callback that takes its curves."""
    pick_device(recipe.pretrain.device)  # before there are threads
    pack = Pack(folder, {"channels": 3, "mean": MEAN, "std": STD})
    # rows that end with the epoch: else validation would hide the time of the steps before it
    assert rows_in(pack.samples("train")) // recipe.pretrain.batch_size % recipe.pretrain.log_every == 0
    may_run, stands = threading.Event(), threading.Event()
    work: list[tuple[float, float]] = []
    until, resumed, last_step = [0.0], [0.0], [0]

    def log(row: dict[str, float]) -> None:
        now = time.perf_counter()
        if "loss" in row:
            work.append(((row["step"] - last_step[0]) * recipe.pretrain.batch_size, now - resumed[0]))
            last_step[0] = int(row["step"])
        if now > until[0] and work:
            may_run.clear()
            stands.set()
            may_run.wait()
        resumed[0] = time.perf_counter()  # what a turn leaves out: standing still, and validation

    def run() -> None:
        may_run.wait()
        resumed[0] = time.perf_counter()
        try:
            pretrain(recipe, pack, folder / "checkpoints", log)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # the race hears of a process that ends, not of a thread

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


def model_of(recipe: Recipe) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    encoder = build(recipe.encoder, {"channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3})  # its images come normalised
    model = nn.Sequential(encoder, recipe.pretext.build_head(encoder))
    return model, torch.optim.AdamW(model.parameters(), lr=recipe.pretrain.learning_rate, weight_decay=0.05, fused=True)


def limit(recipe: Recipe) -> Turn:
    """Our step on views that are already in memory: nothing to load, to augment or to log."""
    side, batch_size, device = recipe.encoder.image_size, recipe.pretrain.batch_size, pick_device("auto")
    views = torch.randn(2 * batch_size, 3, side, side, device=device).bfloat16()
    views = views.contiguous(memory_format=torch.channels_last)
    train = step_of(*model_of(recipe), recipe)

    def steps() -> None:
        for _ in range(recipe.pretrain.log_every):  # the loop waits for the device as often
            train(views)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return repeat(steps, batch_size * recipe.pretrain.log_every)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Any:
    """Our step on views `[2 * batch, 3, side, side]`."""
    device = pick_device(recipe.pretrain.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = mixed_precision(recipe.pretrain, device)

    def loss_of(views: torch.Tensor) -> torch.Tensor:
        return nt_xent(*model(views).chunk(2), recipe.pretext.temperature)  # type: ignore[attr-defined]

    late.settle()
    objective = torch.compile(loss_of, dynamic=False) if recipe.pretrain.compile else loss_of

    def train(views: torch.Tensor) -> None:
        with autocast():
            objective(views.contiguous(memory_format=torch.channels_last)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train
