"""Images with a mask each that nobody has described: two folders that are called so, with files of the same names."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ssl_pipeline.ingest import masks
from ssl_pipeline.ingest.image_masks import class_ids
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.part import PipelineError

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "photos")
MASKS = ("masks", "mask", "labels", "annotations", "segmentations", "SegmentationClass")
READ = 200
"""Masks, of which the largest value says how many classes there are."""
IGNORE = 255
"""Nearly everywhere the value of pixels of which nothing is said."""


def in_files(path: Path, names: Iterable[str]) -> Masks | None:
    """The source where most images have a mask, with two classes: `described` says how many there are."""
    names = list(names)
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    for images in filter(folders.__contains__, IMAGES):
        for drawn in filter(folders.__contains__, MASKS):
            source = Masks(path=str(path), images=images, masks=drawn, classes=classes(2))
            image_key, mask_key = masks.keys(source)
            there = {key for name in names if (key := mask_key(name))}
            shown = [key for name in names if (key := image_key(name))]
            if 2 * sum(key in there for key in shown) > len(shown):
                return source
    return None


def described(source: Masks) -> Masks:
    """With as many classes as the values of some masks, drawn at random, say. Raises PipelineError where these are no classes."""
    path, values = Path(source.path), set[int]()
    total = sum(1 for _ in masks.read(source, path).items)
    chosen = set(random.Random(0).sample(range(total), min(total, READ)))
    for number, item in enumerate(masks.read(source, path).items):
        if number in chosen:
            with suppress(BadSample):  # in colours, and such
                values |= set(np.unique(class_ids(item.extra["mask"].load(), 256, None)).tolist())
    if values == {0, IGNORE}:
        raise PipelineError(
            f"{source.path}: the masks in {source.masks} hold the values 0 and 255, and classes are numbered 0, 1, 2, ...: "
            "write them as 0 and 1 (255 is for pixels of which nothing is said)"
        )
    found = classes(max(2, 1 + max(values - {IGNORE}, default=0)))
    return source.model_copy(update={"classes": found, "ignore": IGNORE if IGNORE in values else None})


def classes(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))
