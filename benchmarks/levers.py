"""What raises quality at equal time? `python -m benchmarks.levers cifar10-train.zip [--json]`, half an hour on two cores.

SimCLR with a small ResNet on 10,000 CIFAR-10 images by the loop itself, each lever with as many epochs as the same processor
time allows (one thread each; a run of two epochs says what one costs, and the table what all took), three seeds; accuracy of
kNN on 5,000 images that were not trained on. What is worth keeping gains more than its seeds differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.cifar import knn_accuracy, pack_cifar
from benchmarks.race import report
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.simclr import SimCLR
from ssl_pipeline.pretrain import loop
from ssl_pipeline.recipe import Recipe

SECONDS, SEEDS = 45, 3
LEVERS: dict[str, dict[str, Any]] = {
    "as it is: one epoch of warm-up, then half a cosine": {},
    "constant rate after the warm-up": {"schedule": "constant"},
    "one cycle: three tenths up, then half a cosine": {"schedule": "cycle"},
    "one cycle to twice the rate": {"schedule": "cycle", "learning_rate": 6e-3},
    "twice the rate": {"learning_rate": 6e-3},
    "half the rate": {"learning_rate": 1.5e-3},
    "resolution 16, 24, 32": {"sides": [16, 24, 32]},
    "resolution 24, then 32": {"sides": [24, 32]},
    "half the batch": {"batch_size": 64},
    "twice the batch": {"batch_size": 256},
    "average of weights (momentum 0.99)": {"average": 0.99},
}
BASE = {"batch_size": 128, "learning_rate": 3e-3}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("zip", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pack = pack_cifar(given.zip, Path(name), 10_000, 5_000)
        (Path(name) / "facts.json").write_text(json.dumps(pack.facts))

        def run(lever: str, epochs: int, seed: int) -> dict[str, float]:
            command = [sys.executable, "-m", "benchmarks.levers", "--one", name, lever, str(epochs), str(seed)]
            done = subprocess.run(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
            )
            print(lever, seed, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
            return json.loads(done.stdout.splitlines()[-1])

        costs = pool.map(lambda lever: run(lever, 2, 0)["seconds"] / 2, LEVERS)
        epochs = {lever: round(SECONDS / cost) for lever, cost in zip(LEVERS, costs, strict=True)}
        jobs = [(lever, epochs[lever], seed) for seed in range(SEEDS) for lever in LEVERS]
        found = list(pool.map(lambda job: run(*job), jobs))
    rows = []
    for lever in LEVERS:
        runs = [result for (name, _, _), result in zip(jobs, found, strict=True) if name == lever]
        knn = [100 * run["knn"] for run in runs]
        rows.append(
            {"lever": lever, "epochs": epochs[lever], "seconds": mean(run["seconds"] for run in runs),
             "knn": mean(knn), "seeds_deviate": stdev(knn)}
        )  # fmt: skip
    for row in rows:
        row["gain"] = row["knn"] - rows[0]["knn"]
    report(f"kNN accuracy in percent after {SECONDS} s of one thread", rows, given.json)


def one(folder: Path, lever: str, epochs: int, seed: int) -> dict[str, float]:
    """Trains and evaluates one run in this process, which is patched for its lever and ends after it."""
    changes = dict(LEVERS[lever])
    schedule, sides, average = changes.pop("schedule", None), changes.pop("sides", None), changes.pop("average", None)
    recipe = Recipe.model_validate(
        {
            "name": "lever", "dataset": "cifar", "pretext": {"task": "simclr"},
            "encoder": {"backbone": "resnet18", "image_size": 32, "stem": "half",
                        "options": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}},
            "pretrain": BASE | changes | {"epochs": epochs, "seed": seed, "compile": False, "checkpoint_seconds": 1e9},
        }
    )  # fmt: skip
    steps = epochs * (10_000 // recipe.pretrain.batch_size)
    if schedule:
        loop.schedule = SCHEDULES[schedule]
    if sides:
        loop.render = growing(sides, steps)  # type: ignore[assignment]
    averaged: list[torch.Tensor] = []
    if average:
        SimCLR.after_step = averaging(averaged, average)  # type: ignore[method-assign]
    pack = Pack(folder, json.loads((folder / "facts.json").read_text()))
    with tempfile.TemporaryDirectory() as checkpoints:
        started = time.process_time()
        encoder, _ = loop.pretrain(recipe, pack, Path(checkpoints), lambda row: None)
        seconds = time.process_time() - started
    for weight, smooth in zip(encoder.state_dict().values(), averaged, strict=False):
        weight.copy_(smooth)
    return {"seconds": seconds, "knn": knn_accuracy(encoder, pack, recipe)}


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, warmup, total: min(1.0, (step + 1) / warmup),
    "cycle": lambda step, warmup, total: (
        (step + 1) / (0.3 * total) if step < 0.3 * total else 0.5 * (1 + math.cos(math.pi * (step / total - 0.3) / 0.7))
    ),
}


def growing(sides: list[int], steps: int) -> Any:
    """Training views of these sides one after the other, each in an equal share of the steps."""
    seen = 0

    def render(task: Any, encoder: Any, batch: Any, labels: Any) -> Any:
        nonlocal seen
        training, side = torch.is_grad_enabled(), sides[min(seen * len(sides) // steps, len(sides) - 1)]
        seen += training
        with torch.no_grad():
            return task.views.render(encoder.read(batch), labels, side if training else None)

    return render


def averaging(averaged: list[torch.Tensor], momentum: float) -> Any:
    def after_step(task: Any, encoder: Any, head: Any, progress: float) -> None:
        now = [value.detach() for value in encoder.state_dict().values()]
        if not averaged:
            averaged.extend(value.clone() for value in now)
        for smooth, value in zip(averaged, now, strict=True):
            smooth.lerp_(value, 1 - momentum) if value.is_floating_point() else smooth.copy_(value)

    return after_step


if __name__ == "__main__":
    if "--one" in sys.argv:
        folder, lever, epochs, seed = sys.argv[2:]
        print(json.dumps(one(Path(folder), lever, int(epochs), int(seed))))
    else:
        main()
