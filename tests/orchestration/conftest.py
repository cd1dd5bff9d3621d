"""A tiny project: two kinds of 16 pixel images, a dataset, and recipes that train for a second."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]

DEFS = """\
type: ssl_pipeline.Dataset
attributes:
  name: shapes
  source: {kind: image_folder, path: images}
---
type: ssl_pipeline.Pretraining
attributes: &simclr
  name: shapes_simclr
  dataset: shapes
  encoder: {backbone: resnet18, image_size: 16, options: {channels: [8, 8, 16, 16]}}
  pretext: {task: simclr, views: {min_scale: 0.9, flip: false, color: 0.0, blur: false}}
  pretrain: {epochs: 12, batch_size: 16, learning_rate: 0.003, device: cpu}
  evaluations:
    - {kind: classification, shots: [5, all], k: 5, supervised_steps: 2}
  promote: null
"""


def draw_shapes(folder: Path, count: int = 60) -> None:
    """Circles and squares in noise, `count` of each, and one damaged file."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    masks = {"circles": (y - 8) ** 2 + (x - 8) ** 2 < 20, "squares": (abs(y - 8) < 5) & (abs(x - 8) < 5)}
    for name, mask in masks.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 60, (16, 16)).astype(np.uint8)
            image[np.roll(mask, rng.integers(-2, 3, 2), (0, 1))] = rng.integers(180, 250)
            Image.fromarray(image).save(folder / name / f"{number:03}.png")
    (folder / "circles" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n but no image")


def lay_out(folder: Path, defs: str = DEFS) -> None:
    """A project folder as a user has it: git, dagster.yaml, images, recipes."""
    draw_shapes(folder / "images")
    shutil.copy(ROOT / "dagster.yaml", folder)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    recipes = folder / "ssl_pipeline" / "defs" / "shapes"
    recipes.mkdir(parents=True)
    (recipes / "defs.yaml").write_text(defs)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a folder; DAGSTER_HOME points to it."""
    lay_out(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def automated_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder whose recipe also draws a map of its features, and retrains and embeds by itself."""
    folder = tmp_path_factory.mktemp("automated")
    by_itself = "  embeddings: true\n  retrain: {on_new_data: true, on_drift: true, cron: '0 3 * * 1'}\n"
    with_map = DEFS.replace("supervised_steps: 2}\n", "supervised_steps: 2}\n    - {kind: clustering}\n")
    lay_out(folder, with_map + by_itself)
    return folder
