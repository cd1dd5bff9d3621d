"""SimCLR on CIFAR-10 by the loop as it is: `python -m benchmarks.cifar cifar10-train.zip [--epochs 200] [--json]`.

Prints seconds an epoch and the accuracy of kNN (k = 20, cosine) on 5,000 training images that neither the encoder nor the
neighbours' labels saw; the last epoch's weights. Meant for a GPU: resnet18 with the small stem, batch 512. The file is a zip
of class folders.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.race import report
from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.evaluate.classification import knn
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.loop import pretrain
from ssl_pipeline.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("zip", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    recipe = Recipe.model_validate(
        {
            "name": "cifar", "dataset": "cifar", "encoder": {"backbone": "resnet18", "image_size": 32},
            "pretext": {"task": "simclr"},
            "pretrain": {"epochs": given.epochs, "batch_size": 512, "warmup_epochs": min(10, given.epochs / 10)},
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        pack = pack_cifar(given.zip, Path(name), 45_000, 5_000)
        ends: list[float] = [time.perf_counter()]

        def log(row: dict[str, float]) -> None:
            if "validation/loss" in row:
                ends.append(time.perf_counter())
                print(
                    f"epoch {row['epoch']:.0f}: {ends[-1] - ends[-2]:.1f} s, loss {row['validation/loss']:.3f}",
                    flush=True,
                )

        encoder, summary = pretrain(recipe, pack, Path(name) / "checkpoints", log)
        row = {
            "encoder": "resnet18", "epochs": given.epochs, "seconds_per_epoch": float(np.median(np.diff(ends))),
            "train_seconds": summary["train_seconds"], "validation_knn": knn_accuracy(encoder, pack, recipe),
        }  # fmt: skip
    report("SimCLR on CIFAR-10", [row], given.json)


def pack_cifar(file: Path, folder: Path, train: int, validation: int) -> Pack:
    """A pack of random images of the zip, with their classes."""
    with zipfile.ZipFile(file) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = np.random.default_rng(0).permutation(names)[: train + validation]
        data = [archive.read(name) for name in chosen]
    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(lambda one: to_square(decode(one), 32, 3), data)))
    labels = [name.split("/")[-2] for name in chosen]
    for split, part in {"train": slice(0, train), "validation": slice(train, None)}.items():
        np.save(folder / f"{split}.image.npy", pixels[part])
        index = {"sample_id": list(chosen[part]), "label": labels[part], "source": list(chosen[part])}
        pd.DataFrame(index).to_parquet(folder / f"{split}.parquet")
    moments = pixels[:train].astype(np.float32) / 255
    return Pack(
        folder, {"channels": 3, "mean": moments.mean((0, 2, 3)).tolist(), "std": moments.std((0, 2, 3)).tolist()}
    )


def knn_accuracy(encoder: Encoder, pack: Pack, recipe: Recipe) -> float:
    x = {split: embed(encoder, pack.samples(split), recipe.pretrain) for split in ("train", "validation")}
    y = {split: pack.index(split)["label"].to_numpy(dtype=object).astype(str) for split in x}
    return float((knn(x["train"], y["train"], x["validation"], Classification()) == y["validation"]).mean())


if __name__ == "__main__":
    main()
