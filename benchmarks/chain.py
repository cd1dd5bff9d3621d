"""The whole chain on real data beside the classics: `python -m benchmarks.chain {fsdd,agnews,flickr,multi30k,bccd}
[--json]`.

    fsdd     spoken digits; the encoder and the probe see four speakers, the test split is the fifth, each in turn; 15 minutes
    agnews   7,600 news items in four classes, split by content; 6 minutes
    flickr   800 photos with five captions each; 5 minutes
    multi30k 29,000 English sentences, pretrained on and then translated into German; 10 minutes
    bccd     292 pictures of blood cells with boxes: detectors from encoders that learnt from the same pictures, from CIFAR-10 and
             then these, and from random weights; 20 minutes

Of the development data beside the checkout. A row is a method's score on the test split, in the words of the recipe's
evaluation; settings were chosen on other splits.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race import report
from ssl_pipeline.chain import run_recipe
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHOTS = [10, 100, "all"]
RECORDING = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<number>\d+)\.wav$")
HELD_OUT = 5
"""Recordings of a digit by a training speaker that choices are made on."""
RECIPES: dict[str, dict[str, Any]] = {
    "fsdd": {
        "encoder": {
            "kind": "audio", "backbone": "resnet18", "options": {"channels": [16, 32, 64, 128]}, "sample_rate": 8000,
            "seconds": 0.64,
        },
        "pretext": {"task": "simclr"},
        "pretrain": {"epochs": 40, "batch_size": 256, "learning_rate": 3e-3},
        "evaluations": [{"kind": "classification", "shots": SHOTS, "supervised_steps": 0}],
    },
    "agnews": {
        "encoder": {"kind": "text", "layers": 1, "width": 256, "heads": 4, "length": 64, "vocabulary": 8000},
        "pretext": {"task": "text_crops"},
        "pretrain": {"epochs": 15, "batch_size": 128, "learning_rate": 5e-3},
        "evaluations": [{"kind": "classification", "shots": SHOTS, "supervised_steps": 0}],
    },
    "flickr": {
        "encoder": {
            "kind": "image_text", "image": {"backbone": "resnet18", "image_size": 64, "stem": "half"},
            "text": {"layers": 2, "width": 128, "vocabulary": 2000},
        },
        "pretext": {"task": "clip"},
        "pretrain": {"epochs": 60, "batch_size": 64, "learning_rate": 2e-3},
        "evaluations": [{"kind": "retrieval"}],
    },
    "multi30k": {
        "encoder": {
            "kind": "text", "architecture": "modernbert", "layers": 2, "width": 128, "heads": 4, "length": 32, "vocabulary": 4000,
        },
        "pretext": {"task": "masked_language"},
        "pretrain": {"epochs": 16, "batch_size": 128, "learning_rate": 3e-3},
        "evaluations": [
            {
                "kind": "translation", "steps": 300, "learning_rate": 4e-3, "layers": 1, "width": 128, "seeds": 2,
                "test_sentences": 1014,
            },
        ],
    },
}  # fmt: skip

SMALL = {
    "backbone": "resnet18", "image_size": 64, "stem": "half", "options": {"layers": [1, 1, 1, 1], "channels": [24, 48, 96, 192]}
}  # fmt: skip
BCCD: dict[str, dict[str, Any]] = {
    "cifar": {
        "dataset": "cifar", "encoder": SMALL, "pretext": {"task": "simclr", "temperature": 0.2},
        "pretrain": {"epochs": 2, "batch_size": 256, "learning_rate": 2e-3, "warmup_epochs": 0.2}, "evaluations": [],
    },
    **{
        name: {
            "dataset": "cells", "encoder": SMALL, "pretext": {"task": "simclr", "temperature": 0.2, "views": {"min_scale": 0.2}},
            "pretrain": {"epochs": 100, "batch_size": 64, "learning_rate": 2e-3},
            "evaluations": [{"kind": "detection", "image_size": 160, "steps": 300, "batch_size": 4}], **more,
        }
        for name, more in (("these_pictures", {}), ("cifar_then_these", {"start_from": "cifar"}))
    },
}  # fmt: skip
"""Recipes, those that others go on from first."""
HELD = 10
"""Every so many a training picture is one that choices are made on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=[*RECIPES, "bccd"])
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    archive = DATA / {"flickr": "flickr1k.zip", "multi30k": "multi30k-en-de.zip"}.get(chosen.data, f"{chosen.data}.zip")
    if not archive.exists():
        sys.exit(f"{archive.name}: the development data is not beside this checkout")
    with tempfile.TemporaryDirectory() as name:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{name}/dvc"
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{name}/mlflow.db"
        if chosen.data == "bccd":
            runs = [cells_of(archive, Path(name))]
        else:
            runs = [run(chosen.data, source, name) for source in sources(chosen.data, archive, Path(name))]
    report(f"{chosen.data}: score on the test split", mean_of(runs), chosen.json)


def sources(data: str, archive: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The source of each run."""
    if data == "agnews":
        yield {
            "kind": "text", "path": str(archive), "member": "agnews/ag_news_csv/test.csv", "header": False,
            "text": [2, 3], "label": 1,
        }  # fmt: skip
    elif data == "flickr":
        yield {"kind": "image_text", "path": str(archive)}
    elif data == "multi30k":
        yield {"kind": "text", "path": str(pairs_of(archive, folder)), "target": "target", "split": "split"}
    else:
        with zipfile.ZipFile(archive) as opened:
            recordings = [name for name in opened.namelist() if RECORDING.search(name)]
            opened.extractall(folder, recordings)
        found = {name: RECORDING.search(name).groupdict() for name in recordings}  # type: ignore[union-attr]
        for speaker in sorted({each["speaker"] for each in found.values()}):
            table = folder / f"{speaker}.csv"
            with open(table, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["audio", "label", "split"])
                for name, said in found.items():
                    own = "validation" if int(said["number"]) < HELD_OUT else "train"
                    writer.writerow([name, said["digit"], "test" if said["speaker"] == speaker else own])
            yield {"kind": "table", "path": str(table), "modality": "audio", "label": "label", "split": "split"}


def pairs_of(archive: Path, folder: Path) -> Path:
    """The training list, and the set's validation list as the test split; what is chosen is chosen on a part of the former."""
    table = folder / "multi30k.jsonl"
    with zipfile.ZipFile(archive) as opened, open(table, "w", encoding="utf-8") as file:
        for name, split in (("train", "train"), ("val", "test")):
            sides = [
                gzip.decompress(opened.read(f"multi30k/{name}.{language}.gz")).decode() for language in ("en", "de")
            ]
            for text, target in zip(*(side.splitlines() for side in sides), strict=True):
                file.write(json.dumps({"text": text, "target": target, "split": split}) + "\n")
    return table


def cells_of(archive: Path, folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(method, metric) -> its cell, of all BCCD recipes."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    lists = folder / "bccd" / "ImageSets" / "Main"
    names = (lists / "train.txt").read_text().split()
    for split, chosen in (("learn", [n for i, n in enumerate(names) if i % HELD]), ("choose", names[::HELD])):
        (lists / f"{split}.txt").write_text("\n".join(chosen))
    files = {"train": "learn", "validation": "choose", "test": "val"}
    boxes = {"kind": "voc", "path": str(folder / "bccd")} | {s: f"ImageSets/Main/{f}.txt" for s, f in files.items()}
    sources = {"cifar": {"kind": "archive", "path": str(DATA / "cifar10-train.zip")}, "cells": boxes}
    datasets = {name: Dataset.model_validate({"name": name, "source": source}) for name, source in sources.items()}
    (root := folder / "project").mkdir()
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, said in BCCD.items():
        recipe = Recipe.model_validate({"name": name, "promote": None} | said)
        last = recipe.evaluations[-1].kind if recipe.evaluations else "pretrained_encoder"
        say = partial(print, file=sys.stderr)
        done = run_recipe(recipe, datasets[recipe.dataset], Project(root), last, say)
        if recipe.evaluations:
            summary = done[last].summary
            methods = {name: summary["metrics"]} | summary["baselines"]
            found |= {(method, metric): cell for method, metrics in methods.items() for metric, cell in metrics.items()}
    return found


def run(data: str, source: dict[str, Any], folder: str) -> dict[tuple[str, str], dict[str, float]]:
    """(method, metric) -> its cell."""
    name = Path(source["path"]).stem
    (root := Path(folder, f"project_{name}")).mkdir()
    dataset = Dataset.model_validate({"name": "data", "source": source})
    recipe = Recipe.model_validate({"name": "ours", "dataset": "data", "promote": None} | RECIPES[data])
    done = run_recipe(
        recipe, dataset, Project(root), recipe.evaluations[-1].kind, lambda line: print(line, file=sys.stderr)
    )
    summary = done[recipe.evaluations[-1].kind].summary
    methods = {"ours": summary["metrics"]} | summary["baselines"]
    return {(method, metric): cell for method, metrics in methods.items() for metric, cell in metrics.items()}


def mean_of(runs: list[dict[tuple[str, str], dict[str, float]]]) -> list[dict[str, Any]]:
    """A row a method and metric: of one run with its interval, of several their mean and each."""
    rows: list[dict[str, Any]] = []
    for method, metric in runs[0]:
        cells = [found[method, metric] for found in runs]
        row = {"method": method, "metric": metric, "mean": float(np.mean([cell["mean"] for cell in cells]))}
        row |= {"low": cells[0]["low"], "high": cells[0]["high"]} if len(runs) == 1 else {
            "runs": " ".join(f"{cell['mean']:.3f}" for cell in cells)
        }  # fmt: skip
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
