from __future__ import annotations

import io
from collections import Counter

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from ssl_pipeline.ingest import video
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.ingest.video import Videos, frames


def make(pixels, container="matroska", codec="ffv1", form="bgr0", at=None, degrees=0):
    """A video of frames `[n, height, width, 3]`; `at` are their places on a grid of tenths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], form
        stream.codec_context.thread_count = 1
        if degrees:
            stream.set_display_rotation(degrees)
        for i, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = at[i] if at else i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def noise(count=6, height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def greys(count):
    """Frames of one grey each: 10, 20, 30 ..."""
    return np.broadcast_to((10 + 10 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, 16, 16, 3)).copy()


def sample(data):
    return Videos().read(data, {})


def test_the_columns_of_a_video():
    data = make(noise(6))
    read = sample(data)
    assert read.columns == {
        "video": {"bytes": data, "path": None}, "frames": 6, "height": 20, "width": 30,
        "fps": pytest.approx(10), "seconds": pytest.approx(0.6),
    }  # fmt: skip
    assert read.counted == {"frames": 6, "height": 20, "width": 30, "milliseconds": 600, "channels": 3}
    turned = sample(make(noise(6), "mov", "png", "rgb24", degrees=90))
    assert (turned.columns["height"], turned.columns["width"]) == (30, 20)


def test_equal_frames_are_the_same_video_in_any_container_and_lossless_codec():
    pixels = noise(4)
    identity = sample(make(pixels)).identity
    assert sample(make(pixels, "mov", "png", "rgb24")).identity == identity
    assert sample(make(pixels, "avi", "ffv1", "bgr0")).identity == identity
    assert sample(make(pixels, at=[0, 1, 5, 6])).identity == identity, "when frames are shown does not count"


def test_any_difference_is_another_video():
    pixels = noise(4)
    other, turned = pixels.copy(), make(pixels, "mov", "png", "rgb24", degrees=90)
    other[3, 19, 29, 2] ^= 1
    videos = [make(pixels), make(other), turned, make(pixels[::-1].copy()), make(pixels[:3])]
    assert len({sample(data).identity for data in videos}) == 5


def test_odd_sizes_and_padding_do_not_decide_identity():
    """Rows are padded to what the processor likes; 4:2:0 has half rows where the size is odd."""
    pixels = noise(3, 21, 31)
    made = [make(pixels, form="yuv444p"), make(pixels, "avi", form="yuv444p")]
    half = [make(pixels, form="yuv420p"), make(pixels, "avi", form="yuv420p")]
    assert [sample(data).identity for data in made] == [sample(made[0]).identity] * 2
    assert [sample(data).identity for data in half] == [sample(half[0]).identity] * 2
    assert sample(made[0]).identity != sample(half[0]).identity


def test_one_frame_is_no_video():
    with pytest.raises(BadSample, match="too few frames: 1"):
        sample(make(noise(1)))


def test_grey_video_is_counted_as_grey():
    assert sample(make(noise(3), form="gray")).counted["channels"] == 1


def test_summary():
    tallies = {name: Counter() for name in ("frames", "milliseconds", "height", "width", "channels")}
    for data in (make(noise(3)), make(noise(5)), make(noise(9))):
        for name, value in sample(data).counted.items():
            tallies[name][value] += 1
    assert Videos().summary(tallies) == {
        "channels": 3,
        "sizes": {"min": [20, 30], "median": [20, 30], "max": [20, 30]},
        "lengths": {"min": [3, 300], "median": [5, 500], "max": [9, 900]},
    }


def test_the_datasets_library_reads_the_column(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = make(noise(3))
    read = sample(data)
    with Shards(tmp_path, Videos()) as shards:
        row = {"sample_id": read.identity, "label": None, "group": None, "source": "a.mkv", **read.columns}
        for split in ("train", "validation", "test"):
            shards.add(split, row)
    assert pq.read_schema(tmp_path / "train-00000.parquet").field("fps").type == "float"
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "train-00000.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["video"], datasets.Video)
    assert loaded.cast_column("video", datasets.Video(decode=False))[0]["video"]["bytes"] == data


def test_frames_are_the_centre_square():
    pixels = noise(3, 20, 30)
    for (seconds, square), picture, time in zip(frames(make(pixels), 20, 3), pixels, (0, 0.1, 0.2), strict=True):
        np.testing.assert_array_equal(square, picture[:, 5:25].transpose(2, 0, 1))
        assert seconds == pytest.approx(time, abs=1e-3)
    shapes = {square.shape for _, square in frames(make(pixels), 8, 1)}
    assert shapes == {(1, 8, 8)}


def shown(at, every, **options):
    data = make(greys(len(at)), at=at)
    return [int(square[0, 0, 0]) // 10 for _, square in frames(data, 8, 1, every, **options)]


def test_sampling_in_time_shows_what_is_on_the_screen():
    assert shown([0, 1, 2, 3, 4], 0.1) == [1, 2, 3, 4, 5]
    assert shown([0, 1, 2, 3, 4], 0.2) == [1, 3, 5]
    assert shown([0, 1, 2, 3, 4], 0.05) == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert shown([0, 1, 5, 6], 0.2) == [1, 2, 2, 4], "a variable rate"
    assert shown([0, 1, 2, 3, 4], 0.1, limit=2) == [1, 2]


def test_sampling_loses_no_step_to_timestamps_that_are_rounded():
    """Matroska stores milliseconds: a frame of 30 a second begins at 33, 67, 100 ms."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "gray"
        for i, picture in enumerate(greys(24)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    squares = [int(square[0, 0, 0]) // 10 for _, square in frames(file.getvalue(), 8, 1, 1 / 15)]
    assert squares == list(range(1, 25, 2))


def test_a_pause_is_cut_short(monkeypatch):
    monkeypatch.setattr(video, "MAX_PAUSE", 1.0)
    assert shown([0, 100_000], 0.25) == [1, 1, 1, 1, 2]
