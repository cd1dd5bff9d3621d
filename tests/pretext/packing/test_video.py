from __future__ import annotations

import io
import json
from collections import Counter
from itertools import pairwise

import av
import numpy as np
import pandas as pd
import pytest

from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.ingest.video import Videos
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing import video
from ssl_pipeline.pretext.packing.motion import change, coarse, has_cut
from ssl_pipeline.pretext.packing.video import Growing, clips_of, write

SIDE = 32


def texture(seed=0, side=96):
    """Smooth blobs, so that what moves by a pixel looks a little different."""
    coarse_noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3)).astype(np.float32)
    return np.kron(coarse_noise, np.ones((8, 8, 1), np.float32)).astype(np.uint8)


def panning(count, speed=3, seed=0):
    """A view that moves over a texture by `speed` pixels a frame, there and back."""
    place = np.abs((np.arange(count) * speed + 30) % 120 - 60)
    return np.stack([texture(seed)[20 : 20 + SIDE, p : p + SIDE] for p in place])


def still(count, seed=0):
    return np.repeat(texture(seed)[None, :SIDE, :SIDE], count, 0)


def encoded(frames, rate=10):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        stream.codec_context.thread_count = 1
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def row_of(frames, rate=10):
    data = encoded(frames, rate)
    return {"sample_id": "x", "label": None, "group": None, "source": "x.mkv"} | Videos().read(data, {}).columns


def taken(frames, rate=10, **settings):
    settings = {"image_size": SIDE, "frames": 5} | settings
    return clips_of(row_of(frames, rate), VideoEncoder(**settings), 3)


def channels_first(frames):
    return frames.transpose(0, 3, 1, 2)


def test_the_middle_is_the_sample():
    frames = panning(21)
    np.testing.assert_array_equal(taken(frames).middle, channels_first(frames[8:13]))


def test_a_video_shorter_than_a_clip_stands_still_at_its_end_and_is_not_trained_on():
    frames = panning(3)
    found = taken(frames)
    np.testing.assert_array_equal(found.middle, channels_first(frames[[0, 1, 2, 2, 2]]))
    assert found.kept == [] and not found.counted


def test_clips_are_sampled_in_time_at_any_frame_rate():
    slow = panning(21)
    fast = slow.repeat(3, 0)  # the same ten times a second, in 30 frames
    for a, b in zip(taken(slow).kept, taken(fast, 30).kept, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        assert a.seconds == pytest.approx(b.seconds)


def test_what_stands_still_is_left_out_and_what_moves_is_kept():
    frames = np.concatenate([still(15), panning(15)])
    found = taken(frames, min_motion=0.02)
    assert found.kept and all(clip.seconds >= 1.0 for clip in found.kept)
    assert found.counted["still"] >= 2
    assert all(clip.motion >= 0.02 for clip in found.kept)
    expected = channels_first(frames[15:20])
    np.testing.assert_array_equal(next(c for c in found.kept if c.seconds == pytest.approx(1.5)).pixels, expected)


def test_a_change_of_light_is_no_motion():
    fade = (still(15) * np.linspace(0.4, 1, 15)[:, None, None, None]).astype(np.uint8)
    assert taken(fade, min_motion=0.01).kept == []
    flicker = np.clip(still(15).astype(int) // 2 + np.tile([0, 40, 80], 5)[:, None, None, None], 0, 255)
    assert taken(flicker.astype(np.uint8), min_motion=0.01).kept == []
    assert taken(panning(15), min_motion=0.01).kept


def test_clips_with_a_cut_are_left_out():
    frames = np.concatenate([panning(12), panning(12, seed=5)])
    found = taken(frames)
    assert found.counted["cut"] >= 1
    assert all(clip.seconds + 0.4 < 1.15 or clip.seconds > 1.15 for clip in found.kept)
    assert len(found.kept) >= 2, "both shots are used"


def test_clips_share_less_than_half_and_those_that_move_most_are_kept():
    frames = np.concatenate([panning(30, 1), panning(30, 4)])
    every = taken(frames, clips_per_video=100, min_motion=0.0).kept
    starts = [round(clip.seconds * 10) for clip in every]
    assert starts == sorted(starts) and min(np.diff(starts)) >= 3
    most = taken(frames, clips_per_video=3, min_motion=0.0).kept
    assert sorted(c.motion for c in most) == sorted(c.motion for c in every)[-3:]
    assert all(clip.seconds > 2.5 for clip in most)


def test_motion_against_a_straight_line_fitted_in_float64():
    random = np.random.default_rng(3)
    before, after = random.random((16, 16)), random.random((16, 16))
    gain, offset = np.polyfit(before.ravel(), after.ravel(), 1)
    motion, difference = change(before, after)
    assert motion == pytest.approx(np.abs(after - gain * before - offset).mean())
    assert difference == pytest.approx(1 - np.corrcoef(before.ravel(), after.ravel())[0, 1])
    assert change(before, 0.3 * before + 0.2)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("side", [8, 16, 33, 48])
def test_the_coarse_picture_holds_the_means_of_cells(side):
    frame = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    cells = min(16, side)
    edges = np.linspace(0, side, cells + 1).astype(int)
    expected = [[frame[:, a:b, c:d].mean() / 255 for c, d in pairwise(edges)] for a, b in pairwise(edges)]
    np.testing.assert_allclose(coarse(frame), expected, rtol=1e-5)


def test_a_cut_is_sudden():
    assert has_cut(np.array([0.1, 0.9, 0.1]))
    assert has_cut(np.array([0.9, 0.1]))
    assert not has_cut(np.array([0.6, 0.7, 0.65])), "fast motion goes on"
    assert not has_cut(np.array([0.1, 0.4, 0.1]))
    assert not has_cut(np.array([]))


def test_rows_are_added_to_a_file_that_numpy_maps(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (12, 2, 3), np.uint8)
    with Growing(tmp_path / "a.npy", (2, 3)) as file:
        for row in rows:
            file.add(row)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), rows)
    with Growing(tmp_path / "none.npy", (2, 3)):
        pass
    assert np.load(tmp_path / "none.npy", mmap_mode="r").shape == (0, 2, 3)


def tree_of(path, videos):
    """A dataset with these videos in each split."""
    path.mkdir()
    tallies: dict[str, Counter[int]] = {}
    with Shards(path, Videos()) as shards:
        for split, films in videos.items():
            for number, frames in enumerate(films):
                read = Videos().read(encoded(frames), {})
                row = {"sample_id": read.identity, "label": "a", "group": None, "source": f"{split}{number}.mkv"}
                shards.add(split, row | read.columns)
                for name, value in read.counted.items():
                    tallies.setdefault(name, Counter())[value] += 1
    (path / "dataset.json").write_text(json.dumps(Videos().summary(tallies)))
    return path


def test_a_pack_of_videos(tmp_path):
    videos = {
        "train": [panning(20, seed=1), panning(20, seed=2), still(20)],
        "validation": [panning(20, seed=3)],
        "test": [still(20, 4)],
    }
    settings = VideoEncoder(image_size=16, frames=5)
    folder = tmp_path / "pack"
    folder.mkdir()
    facts = write(tree_of(tmp_path / "tree", videos), folder, settings)
    pack = Pack(folder, facts)
    assert pack.samples("train")["clip"].shape == (3, 5, 3, 16, 16)
    clips = pack.training("train")["clip"]
    index = pd.read_parquet(folder / "train.training.parquet")
    assert len(index) == len(clips) == facts["counts"]["train"]["clips"]
    assert facts["counts"]["train"]["videos_without_clips"] == 1 and facts["counts"]["test"]["clips"] == 0
    assert list(pack.index("train")["source"]) == ["train0.mkv", "train1.mkv", "train2.mkv"]
    assert pack.index("train")["motion"].dtype == np.float32
    assert set(index["sample_id"]) == set(pack.index("train")["sample_id"][:2])
    block = clips.astype(np.float64) / 255
    np.testing.assert_allclose(facts["mean"], block.mean((0, 1, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(facts["std"], block.std((0, 1, 3, 4)), atol=1e-4)
    assert facts["channels"] == 3


def test_grey_encoders_get_grey_clips(tmp_path):
    videos = {split: [panning(12, seed=number)] for number, split in enumerate(("train", "validation", "test"))}
    (tmp_path / "pack").mkdir()
    settings = VideoEncoder(image_size=16, frames=5, channels=1)
    facts = write(tree_of(tmp_path / "tree", videos), tmp_path / "pack", settings)
    assert facts["channels"] == 1 and len(facts["mean"]) == 1
    assert np.load(tmp_path / "pack" / "test.clip.npy").shape == (1, 5, 1, 16, 16)


def test_where_nothing_moves_the_error_says_so(tmp_path):
    videos = {split: [still(12, number)] for number, split in enumerate(("train", "validation", "test"))}
    (tmp_path / "pack").mkdir()
    with pytest.raises(
        PipelineError, match=r"none of 1 train videos .* moves \(\d stand still, 0 hold a cut\).*min_motion"
    ):
        write(tree_of(tmp_path / "tree", videos), tmp_path / "pack", VideoEncoder(image_size=16, frames=5))


def test_the_same_dataset_makes_the_same_bytes(tmp_path):
    videos = {split: [panning(20, seed=number)] for number, split in enumerate(("train", "validation", "test"))}
    tree = tree_of(tmp_path / "tree", videos)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tree, tmp_path / name, VideoEncoder(image_size=16, frames=5))
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_memory_is_that_of_the_clips_that_may_be_kept(monkeypatch):
    """However long the video: the frames held are those of the window and of the clips kept."""
    held = []
    true_push = video.heapq.heappush

    def counting(kept, clip):
        true_push(kept, clip)
        held.append(len(kept))

    monkeypatch.setattr(video.heapq, "heappush", counting)
    found = taken(panning(200), clips_per_video=4, min_motion=0.0)
    assert max(held) == 4 == len(found.kept)


@pytest.mark.slow
def test_the_demo_moves(tmp_path):
    """Each split of the demo's videos has clips to train on or to measure with."""
    from ssl_pipeline.ingest import demo_video

    try:
        reading = demo_video.read()
    except PipelineError as missing:
        pytest.skip(str(missing))
    tree, tallies = tmp_path / "tree", {}
    tree.mkdir()
    with Shards(tree, Videos()) as shards:
        for item in reading.items:
            read = Videos().read(item.load(), {})
            row = {"sample_id": read.identity, "label": item.label, "group": item.group, "source": item.source}
            shards.add(item.split, row | read.columns)
            for name, value in read.counted.items():
                tallies.setdefault(name, Counter())[value] += 1
    (tree / "dataset.json").write_text(json.dumps(Videos().summary(tallies)))
    for number, settings in enumerate(({}, {"every_seconds": 0.04})):
        folder = tmp_path / str(number)
        folder.mkdir()
        counts = write(tree, folder, VideoEncoder(image_size=32, **settings))["counts"]
        motion = {split: pd.read_parquet(folder / f"{split}.training.parquet")["motion"] for split in counts}
        print(settings, counts, {split: found.describe().round(4).to_dict() for split, found in motion.items()})
        for split, least in (("train", 100), ("validation", 10), ("test", 30)):
            assert counts[split]["clips"] >= least and counts[split]["clips"] >= 5 * counts[split]["still"]
