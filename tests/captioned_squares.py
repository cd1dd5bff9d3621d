"""Drawings of a coloured square in a corner and two captions that say so: pairs that small towers learn in seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_pipeline.encoders.settings_image_text import ImageTextEncoder
from ssl_pipeline.ingest.image_text import ImageText
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.image_text import write

COLORS = {
    "red": (200, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 40, 200),
    "yellow": (220, 210, 40),
    "white": (240,) * 3,
}
CORNERS = {"top left": (0, 0), "top right": (0, 8), "bottom left": (8, 0), "bottom right": (8, 8)}
COUNTS = {"train": 160, "validation": 40, "test": 40}

SMALL = {
    "kind": "image_text", "dim": 32,
    "image": {"backbone": "resnet18", "image_size": 16, "options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}},
    "text": {"width": 32, "layers": 1, "heads": 2, "length": 16, "vocabulary": 300},
}  # fmt: skip
"""An encoder for them."""


def drawing(number: int) -> tuple[bytes, list[str]]:
    """The number-th drawing, as PNG, and its captions; every twentieth is of one kind."""
    color, corner = list(COLORS)[number % 5], list(CORNERS)[number // 5 % 4]
    pixels = np.random.default_rng(number).integers(0, 60, (16, 16, 3), np.uint8)
    top, left = CORNERS[corner]
    pixels[top : top + 8, left : left + 8] = COLORS[color]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), [f"A {color} square at the {corner}", f"{corner}: {color}, number {number}"]


def tree_of(tree: Path) -> Path:
    tree.mkdir()
    medium, number = ImageText(), 0
    with Shards(tree, medium) as shards:
        for split, count in COUNTS.items():
            for _ in range(count):
                data, captions = drawing(number)
                sample = medium.read(data, {"captions": captions[: 1 + number % 3]})
                about = {
                    "sample_id": sample.identity,
                    "label": captions[0].split()[1],
                    "group": None,
                    "source": str(number),
                }
                shards.add(split, about | sample.columns)
                number += 1
    about = {"channels": 3, "splits": COUNTS, "captions_an_image": {"min": 1, "max": 2}}
    (tree / "dataset.json").write_text(json.dumps(about))
    return tree


def settings_of(**parts: Any) -> ImageTextEncoder:
    return ImageTextEncoder.model_validate(SMALL | parts)


def pack_of(folder: Path) -> Pack:
    folder.mkdir(exist_ok=True)
    tree = tree_of(folder / "tree")
    (folder / "pack").mkdir()
    return Pack(folder / "pack", write(tree, folder / "pack", settings_of()))
