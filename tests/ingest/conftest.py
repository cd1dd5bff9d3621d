"""Pictures made of seeded noise, and `ingest`: a source built into a store of its own, with a plain hash as digest."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_pipeline import ingest as ingest_package
from ssl_pipeline.recipe import Dataset
from ssl_pipeline.store import Stage, Store

HALVES = {"validation": 0.3, "test": 0.3}


def noise(seed: int, width: int = 12, height: int = 10, grey: bool = False) -> Image.Image:
    shape = (height, width) if grey else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def archived(folder: Path, kind: str, files: list[Path] | None = None) -> Path:
    """The folder as a zip, tar or tar.gz; a tar has `files` in this order."""
    path = folder.with_suffix(f".{kind}")
    there = sorted(p for p in folder.rglob("*") if p.is_file())
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in there:
                archive.write(file, file.relative_to(folder.parent))
        return path
    with tarfile.open(path, f"w:{'gz' if kind == 'tar.gz' else ''}") as archive:
        for file in files or there[::-1]:
            archive.add(file, file.relative_to(folder.parent))
    return path


def tree_hash(tree: Path) -> str:
    digest = hashlib.md5()
    for path in sorted(tree.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """The bytes of a PNG of noise, by seed."""
    return lambda seed: encoded(noise(seed))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with 20 pictures of each of two classes."""
    folder = tmp_path / "photos"
    for seed in range(40):
        path = folder / ("cat" if seed < 20 else "dog") / f"{seed:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(seed)))
    return folder


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Stage]:
    def run(source: dict[str, Any], root: Path = tmp_path, **settings: Any) -> Stage:
        dataset = Dataset.model_validate({"name": "pets", "split": HALVES, "source": source} | settings)
        return ingest_package.build(dataset, Store(tmp_path / "store"), tree_hash, root, say=lambda line: None)

    return run


@pytest.fixture
def quarantined() -> Callable[[Stage], dict[str, str]]:
    """{source: reason} of a dataset stage."""
    import pandas as pd

    def read(stage: Stage) -> dict[str, str]:
        table = pd.read_parquet(stage.path / "tree" / "quarantine.parquet")
        return dict(zip(table["source"], table["reason"], strict=True))

    return read


@pytest.fixture
def samples() -> Callable[..., dict[str, dict[str, Any]]]:
    """{source: row and its split} of a dataset stage."""
    from ssl_pipeline.ingest.dataset import rows

    def read(stage: Stage) -> dict[str, dict[str, Any]]:
        splits = ("train", "validation", "test")
        return {r["source"]: r | {"split": s} for s in splits for r in rows(stage.path / "tree", s)}

    return read
