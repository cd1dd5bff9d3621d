"""Small real inputs that several tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.recipe import Recipe

SMALL_RESNET = {
    "backbone": "resnet18",
    "image_size": 16,
    "options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
}


@pytest.fixture(scope="session")
def digits_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """scikit-learn's 1,797 real handwritten digits, 8x8 pixels doubled to 16x16, as a finished pack."""
    path = tmp_path_factory.mktemp("pack")
    bunch = load_digits()
    images = np.kron(bunch.images / 16 * 255, np.ones((2, 2))).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], bunch.target[order].astype(str)
    for split, part in {"train": slice(0, 1200), "validation": slice(1200, 1400), "test": slice(1400, None)}.items():
        np.save(path / f"{split}.image.npy", images[part])
        ids = [f"{i:04d}" for i in range(len(images))[part]]
        pd.DataFrame({"sample_id": ids, "label": labels[part], "group": None, "source": ids}).to_parquet(
            path / f"{split}.parquet"
        )
    return Pack(path, {"channels": 1, "mean": [0.305], "std": [0.376]})


@pytest.fixture
def make_recipe():
    """A small recipe of a task; keyword arguments replace parts of it."""

    def make(task: str = "simclr", pretext: dict | None = None, **parts) -> Recipe:
        pretrain = {"epochs": 2, "batch_size": 100, "warmup_epochs": 1, "log_every": 5} | parts.pop("pretrain", {})
        return Recipe.model_validate(
            {
                "name": f"tiny_{task}", "dataset": "tiny", "encoder": SMALL_RESNET,
                "pretext": {"task": task} | (pretext or {}), "pretrain": pretrain,
            } | parts
        )  # fmt: skip

    return make


@pytest.fixture
def vit_settings() -> dict:
    return {"backbone": "test_vit", "image_size": 16, "options": {"patch_size": 4}}


def repository_data(name: str) -> Path:
    """A file of the development data beside the checkout; skips where it is absent."""
    path = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"development data {name} is not beside this checkout")
    return path
