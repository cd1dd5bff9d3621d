"""Two processes against one on the same cores, and what they say to each other: `python -m benchmarks.scaling [--json]`.

SimCLR by the loop itself: one process on all cores, then two (gloo, DDP, batch norm and negatives over both) on half each,
taking turns. Bytes are counted in one step: what each process hands to collectives, by kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from benchmarks.race import report
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.pretext import gather
from ssl_pipeline.pretext.labels import draw
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain import launch
from ssl_pipeline.pretrain.compute import Objective, render
from ssl_pipeline.pretrain.distributed import Group, replicate, spread
from ssl_pipeline.recipe import Recipe

MEAN, STD = [0.45] * 3, [0.25] * 3
ENCODERS = {
    "small resnet, 32 px": ({"backbone": "resnet18", "image_size": 32, "stem": "half",
                             "options": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}}, 256),
    "resnet18, 96 px": ({"backbone": "resnet18", "image_size": 96, "stem": "default"}, 64),
}  # fmt: skip


def recipe_of(name: str, processes: int) -> Recipe:
    encoder, batch_size = ENCODERS[name]
    pretrain = {
        "epochs": 1,
        "warmup_epochs": 0,
        "batch_size": batch_size,
        "processes": processes,
        "log_every": 4,
        "compile": False,
    }
    return Recipe.model_validate(
        {"name": "race", "dataset": "noise", "encoder": encoder, "pretext": {"task": "simclr"}, "pretrain": pretrain}
    )


def main(as_json: bool) -> None:
    rows = []
    for name, (encoder, batch_size) in ENCODERS.items():
        with tempfile.TemporaryDirectory() as folder:
            side, steps = encoder["image_size"], 40
            noise = np.random.default_rng(0).integers(0, 256, (batch_size * steps, 3, side, side), np.uint8)
            np.save(Path(folder) / "train.image.npy", noise)
            np.save(Path(folder) / "validation.image.npy", noise[:batch_size])
            rates: dict[int, list[float]] = {1: [], 2: []}
            for i in range(3):
                for processes, found in rates.items():
                    found.append(rate(name, processes, Path(folder), Path(folder) / f"{i}-{processes}"))
        said = traffic(name)
        rows.append(
            {
                "encoder": name, "batch_size": batch_size, "one_process": median(rates[1]), "two_processes": median(rates[2]),
                "scaling": median(rates[2]) / median(rates[1]), **said,
            }
        )  # fmt: skip
    report("SimCLR, images a second on the same cores; megabytes a process hands over in a step", rows, as_json)


def rate(name: str, processes: int, data: Path, folder: Path) -> float:
    folder.mkdir()
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)) // processes)
    launch.run(
        recipe_of(name, processes), Pack(data, {"channels": 3, "mean": MEAN, "std": STD}), folder, lambda rows: None
    )
    rows = launch.Tail(folder / "metrics.jsonl").read()
    return median([row["samples_per_second"] for row in rows if "samples_per_second" in row][1:])


def traffic(name: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "benchmarks.scaling",
    ]
    done = subprocess.run(
        [*command, "--count", name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def count(name: str) -> None:
    recipe = recipe_of(name, 2)
    group = Group.join(recipe.pretrain)
    torch.manual_seed(0)
    encoder = build(recipe.encoder, {"channels": 3, "mean": MEAN, "std": STD})
    objective = spread(Objective(recipe.pretext, encoder, recipe.pretext.build_head(encoder)), group, recipe.pretrain)
    replica: Any = replicate(objective, group, recipe.pretrain)
    said = {"gradients_mb": 0.0, "gathered_mb": 0.0, "gathers": 0}

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, and not as strings
        said["gradients_mb"] += bucket.buffer().nbytes / 1e6
        return allreduce_hook(state, bucket)

    replica.register_comm_hook(None, hook)
    whole, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def counted(collective: Any, argument: int) -> Any:
        def call(*tensors: torch.Tensor) -> Any:
            said["gathered_mb"] += tensors[argument].nbytes / 1e6
            said["gathers"] += 1
            return collective(*tensors)

        return call

    gather.dist.all_gather_into_tensor, gather.dist.reduce_scatter_tensor = counted(whole, 1), counted(scatter, 1)
    n, side = recipe.pretrain.batch_size // 2, recipe.encoder.image_size
    labels = draw(recipe.pretext, recipe.encoder, n, 0, "train", 0)
    noise = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    replica(render(recipe.pretext, encoder, {"image": noise}, labels), labels)["loss"].backward()
    if group.rank == 0:
        print(json.dumps(said), flush=True)
    group.leave()


if __name__ == "__main__":
    if "--count" in sys.argv:
        count(sys.argv[-1])
    else:
        main("--json" in sys.argv)
