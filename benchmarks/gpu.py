"""SimCLR at 224 pixels on one GPU: `python -m benchmarks.gpu [--json]`, some ten minutes.

Source images a second of the loop as it is (images on the device, views made there) against the limit: the same compiled
step on views that are already in memory. The share of the matrix peak counts the encoder's operations, forward and twice
that backward, against the fastest bf16 product of two 8192 x 8192 matrices.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.race import race, report
from benchmarks.simclr import MEAN, STD, limit, ours, recipe_of
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.pretext.labels import draw
from ssl_pipeline.pretrain.compute import compile_step, operations, render
from ssl_pipeline.recipe import Recipe

SIDE, IMAGES = 224, 10_240
RACES = {"vit_small_patch16_224": 512, "resnet50": 256}
"""Source images a step."""


def main(as_json: bool) -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no GPU here; benchmarks.pretrain runs on a CPU")
    rows = [compare(backbone, SIDE, batch_size, IMAGES) for backbone, batch_size in RACES.items()]
    report("SimCLR on a GPU, source images a second (two views each)", rows, as_json)


def compare(
    backbone: str, side: int, batch_size: int, images: int, rounds: int = 4, seconds: float = 10
) -> dict[str, Any]:
    recipe = recipe_of({"backbone": backbone, "stem": "default"}, side, batch_size, compiled=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).integers(0, 256, (images, 3, side, side), np.uint8)
        np.save(folder / "train.image.npy", noise)
        np.save(folder / "validation.image.npy", noise[:batch_size])
        rates = race({"ours": partial(ours, recipe, folder), "limit": partial(limit, recipe)}, rounds, seconds)
    views, passes = recipe.pretext.encoder_passes, 3  # forward, and twice that backward
    flops = (
        views * passes * operations(build(recipe.encoder, {"channels": 3, "mean": MEAN, "std": STD})) * rates["ours"]
    )
    return {
        "encoder": backbone, "batch_size": batch_size, "images_per_second": rates["ours"], "limit": rates["limit"],
        "of_limit": rates["ours"] / rates["limit"], "of_matrix_peak": flops / matrix_peak(),
        "augmentation_share": rates["ours"] * view_seconds(recipe),
    }  # fmt: skip


def matrix_peak(size: int = 8192) -> float:
    """Operations a second of a bf16 product."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / fastest(lambda: a @ b)


def view_seconds(recipe: Recipe) -> float:
    """Of making the views of one source image."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, side = recipe.pretrain.batch_size, recipe.encoder.image_size
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, device=device)
    labels = {k: v.to(device) for k, v in draw(recipe.pretext, recipe.encoder, n, 0, "train", 0).items()}
    encoder = build(recipe.encoder, {"channels": 3, "mean": MEAN, "std": STD}).to(device)
    look = compile_step(partial(render, recipe.pretext, encoder))
    with torch.autocast(device.type, torch.bfloat16):
        return fastest(lambda: look({"image": images}, labels)) / n


def fastest(work: Any) -> float:
    """Seconds of the fastest of ten calls."""
    times = []
    for _ in range(13):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[3:])


if __name__ == "__main__":
    main("--json" in sys.argv)
