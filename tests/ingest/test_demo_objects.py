"""The trees: their tiles put together again are the photos, no pixel stands in two splits, and boxes are the XML's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ssl_pipeline.ingest import demo_objects as demo
from ssl_pipeline.ingest.image_objects import ImageObjects
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.part import PipelineError


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    for use in (demo.read, demo.version):
        with pytest.raises(PipelineError, match="package no_such_package is not installed: pip install --no-deps"):
            use("trees")


def test_a_box_belongs_to_the_tiles_that_hold_enough_of_it():
    trees = [{"label": "Dead", "box": [118.0, 10.0, 138.0, 30.0]}, {"label": "Alive", "box": [0.0, 0.0, 5.0, 5.0]}]
    (left, corner), (right,) = (list(demo._inside(trees, x, 0)) for x in (0, 128))
    assert left == {"label": "tree", "box": [118, 10, 128, 30], "ignored": False}
    assert right["box"] == [0, 10, 10, 30] and corner["box"] == [0, 0, 5, 5] and right["label"] == "tree"
    assert not list(demo._inside(trees, 0, 128))


def test_tiles_share_no_pixel_and_splits_are_places(monkeypatch):
    try:
        folder = demo._folder()
    except PipelineError as missing:
        pytest.skip(str(missing))
    photos: dict[str, np.ndarray] = {}
    owner: dict[str, np.ndarray] = {}
    medium, objects, splits = ImageObjects(), 0, ("train", "validation", "test")
    monkeypatch.setattr(demo, "PHOTOS", demo.PHOTOS[1:])  # the first one's PNG takes seconds to read
    for item in demo.read().items:
        name, row, column = re.fullmatch(r"(.*)/(\d+)_(\d+)\.png", item.source).groups()
        if name not in photos:
            photos[name] = np.asarray(decode((folder / f"{name}.png").read_bytes()))
        photo = photos[name]
        place = owner.setdefault(name, np.zeros(photo.shape[:2], np.uint8))
        at = np.s_[int(row) * 128 : (int(row) + 1) * 128, int(column) * 128 : (int(column) + 1) * 128]
        assert not place[at].any() and (np.asarray(decode(item.load())) == photo[at]).all()
        place[at] = 1 + splits.index(item.split)
        sample = medium.read(item.load(), item.extra)
        objects += sample.counted["objects"]
        assert not sample.counted["dropped"] and not sample.counted["clipped"]
    for place in owner.values():
        rows = place[: place.shape[0] // 128 * 128, 0]
        assert (np.diff(rows.astype(int)) >= 0).all() and {1, 3} <= set(rows.tolist()) <= {1, 2, 3}
    # 377 boxes in these photos; few are lost beyond the last whole tile, few are cut in two
    assert 300 < objects < 430
