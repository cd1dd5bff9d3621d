"""Images with a class for each pixel, in the eyes of ingestion. A sample's identity is its image's pixels alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ssl_pipeline.ingest.images import FORMATS, Images, centre, opened
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE, Column, Sample

IGNORED = 255
"""In the pack, pixels of which nothing is said."""
GREY, PALETTE = 0, 3
"""PNG's colour types (ISO 15948, section 11.2.2) whose values are single numbers, of DEPTH bits."""
DEPTH, COLOUR = 24, 25
"""Where the header says them."""


@dataclass(frozen=True)
class Mask:
    """Where an image's mask is, and what its values mean."""

    load: Callable[[], bytes]
    """Raises BadSample where there is none."""
    classes: tuple[str, ...]
    ignore: int | None = None


class ImageMasks:
    """As `Images`, with the Mask that `extra["mask"]` holds."""

    columns: dict[str, Column] = {
        "image": Images.columns["image"],
        "mask": (FILE, {"_type": "Image"}),
        "height": Images.columns["height"],
        "width": Images.columns["width"],
    }

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        sample, mask = Images().read(data, extra), extra["mask"]
        drawn = mask.load()
        ids = class_ids(drawn, len(mask.classes), mask.ignore)
        height, width = ids.shape
        if (height, width) != (sample.columns["height"], sample.columns["width"]):
            size = f"{sample.columns['width']}x{sample.columns['height']}"
            raise BadSample(f"mask of another size: {width}x{height}, the image has {size}")
        there = set(np.unique(ids).tolist())
        counted = {f"class {number} {name}": int(number in there) for number, name in enumerate(mask.classes)}
        return Sample(
            sample.identity,
            sample.columns | {"mask": {"bytes": drawn, "path": None}},
            sample.counted | counted | {"ignore": -1 if mask.ignore is None else mask.ignore},
        )

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        named = sorted(
            (int(number), name, tallies[tally][1])
            for tally in tallies
            if tally.startswith("class ")
            for number, name in [tally.removeprefix("class ").split(" ", 1)]
        )
        ignore = max(tallies["ignore"])
        masks = {
            "classes": [name for _, name, _ in named],
            "images_with": [count for *_, count in named],
            "ignore": None if ignore < 0 else ignore,
        }
        return Images().summary(tallies) | {"masks": masks}


def class_ids(data: bytes, classes: int, ignore: int | None) -> np.ndarray:
    """uint8 `[height, width]`: the class of each pixel, IGNORED where it has none. Raises BadSample with the reason."""
    if not data.startswith(FORMATS["PNG"]) or len(data) <= COLOUR:
        raise BadSample("mask is no PNG")
    depth, colour = data[DEPTH], data[COLOUR]
    if colour not in (GREY, PALETTE):
        raise BadSample("mask in colours: a pixel must be one number, in a grey PNG or one with a palette")
    try:
        values = opened(data, np.asarray).astype(np.int64)
    except BadSample as reason:
        raise BadSample(f"damaged mask: {reason}") from reason
    if colour == GREY and depth in (2, 4):
        values //= 255 // (2**depth - 1)  # Pillow spreads them over 0..255
    known = (values >= 0) & (values < classes)
    said = known if ignore is None else known & (values != ignore)
    if others := np.unique(values[~known & (values != ignore)]).tolist():
        listed = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
        raise BadSample(f"mask with unknown values: {listed}; there are {classes} classes, from 0")
    return np.where(said, values, IGNORED).astype(np.uint8)


def mask_square(ids: np.ndarray, side: int) -> np.ndarray:
    """uint8 `[side, side]`: the same square as `to_square` takes of the image, each pixel the class nearest to its middle."""
    return np.asarray(centre(Image.fromarray(ids), side, Image.Resampling.NEAREST))
