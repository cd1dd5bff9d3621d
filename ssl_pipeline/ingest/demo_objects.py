"""Trees from the air, each with a box around its crown: four photos of NEON's sites at 10 cm a pixel inside deepforest (MIT;
Weinstein et al. 2019, "Individual Tree-Crown Detection in RGB Imagery"), read without importing the package.

The photos are cut into tiles that share no pixel, and split by place: of each photo the upper rows of tiles are for training, the
next ones for validation, the lowest for the test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ssl_pipeline.ingest.image_objects import Annotation
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.ingest.item import BadSample, Item, Reading, read_file
from ssl_pipeline.ingest.objects_voc import described, tree
from ssl_pipeline.part import PipelineError

PACKAGE = "deepforest"
PHOTOS = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
"""Two of conifers in Yellowstone, one of pines in Florida, one of oaks, many of them dead, in California."""
SIDE = 128
"""Pixels of a tile."""
SHARES = {"train": 0.6, "validation": 0.75, "test": 1.0}
"""Of a photo's height, where each split ends."""
VISIBLE = 0.4
"""Share of a box that a tile must hold."""


def read(name: str = "trees") -> Reading:
    """Tiles of 128x128 pixels with their trees, of which dead and living ones are one class. Raises PipelineError where the
    package is missing."""
    return Reading(_tiles(_folder()), frozenset(SHARES))


def version(name: str) -> str:
    _folder()
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    if folder is None or not all((folder / f"{name}.{kind}").is_file() for name in PHOTOS for kind in ("png", "xml")):
        raise PipelineError(f"demo trees: package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==2.1.0")
    return folder


def _tiles(folder: Path) -> Iterator[Item]:
    for name in PHOTOS:
        try:
            photo = decode(read_file(folder / f"{name}.png"))
            trees = [described(one, 0) for one in tree(read_file(folder / f"{name}.xml")).findall("object")]
        except BadSample as reason:
            raise PipelineError(f"demo trees: {name} cannot be read: {reason}; install {PACKAGE} again") from reason
        rows, columns = photo.height // SIDE, photo.width // SIDE
        for row in range(rows):
            split = next(split for split, end in SHARES.items() if (row + 0.5) / rows < end)
            for column in range(columns):
                left, top = column * SIDE, row * SIDE
                load = partial(_png, photo, left, top)
                inside = {"objects": Annotation(list(_inside(trees, left, top)), (SIDE, SIDE))}
                yield Item(f"{name}/{row:02d}_{column:02d}.png", load, split=split, extra=inside)


def _inside(trees: list[dict[str, Any]], left: int, top: int) -> Iterator[dict[str, Any]]:
    """The trees of which a tile holds enough, seen from its corner."""
    for one in trees:
        x0, y0, x1, y1 = one["box"]
        box = [max(x0 - left, 0), max(y0 - top, 0), min(x1 - left, SIDE), min(y1 - top, SIDE)]
        width, height = max(0, box[2] - box[0]), max(0, box[3] - box[1])
        if width * height > VISIBLE * (x1 - x0) * (y1 - y0):
            yield {"label": "tree", "box": box, "ignored": False}


def _png(photo: Image.Image, left: int, top: int) -> bytes:
    file = BytesIO()
    photo.crop((left, top, left + SIDE, top + SIDE)).save(file, "PNG")
    return file.getvalue()
