"""The head: its slices are the volume's, splits are blocks with gaps, and what is white is brighter than what is grey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ssl_pipeline.ingest import demo_masks as demo
from ssl_pipeline.ingest.image_masks import ImageMasks, class_ids
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.part import PipelineError


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    for use in (demo.read, demo.version):
        with pytest.raises(PipelineError, match="package no_such_package is not installed: pip install --no-deps"):
            use("brain")


def test_slices_masks_and_splits():
    try:
        folder = demo._folder()
    except PipelineError as missing:
        pytest.skip(str(missing))
    head, medium, heights = demo._volume(folder / demo.VOLUMES["t1"]), ImageMasks(), dict[str, list[int]]()
    values: list[list[float]] = [[], [], []]
    for item in demo.read().items:
        height = int(item.source[-7:-4])
        sample = medium.read(item.load(), item.extra)
        image = np.asarray(decode(item.load()))
        assert (image == head[height]).all() and image.shape == (233, 197)
        ids = class_ids(sample.columns["mask"]["bytes"], 3, None)
        for number in range(3):
            values[number].append(float(np.median(image[ids == number])))
        heights.setdefault(f"{item.split}/{item.group}", []).append(height)
    assert {name.split("/")[0] for name in heights} == {"train", "validation", "test"}
    in_order = sorted(heights.values())
    assert all(len(block) == demo.BLOCK for block in in_order)
    assert all(after[0] - before[-1] > demo.GAP for before, after in itertools.pairwise(in_order))
    background, grey, white = (float(np.median(one)) for one in values)
    assert background == 0 and grey + 20 < white


def test_a_damaged_volume_is_named(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(PipelineError, match=r"x.nii.gz cannot be read: .*install nilearn again"):
        demo._volume(tmp_path / "x.nii.gz")
