"""videos -> uint8 clips: of every video its middle for the features, and for training several clips that move.

Clips are sampled in time, so that videos of different and varying frame rates show the same motion. What is trained on moves
(see `motion.py`), holds no cut, and shares less than half of its frames with another clip.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from ssl_pipeline.ingest.shards import SPLITS, rows
from ssl_pipeline.ingest.video import frames
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing.motion import change, coarse, has_cut

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_video import VideoEncoder


INDEX = ["sample_id", "label", "group", "source"]


def write(tree: Path, folder: Path, settings: VideoEncoder) -> dict[str, Any]:
    """Fills `folder` with array `clip` `[n, frames, channels, side, side]`, one row a video and, as training rows, one a
    clip that moves; with SPLIT.training.parquet, which says of which video, from which second on, and how much it moves.

    Returns channels, their mean and deviation in 0..1 over the training clips, and what was counted in each split. Memory
    is a few videos' clips. Raises PipelineError where nothing moves in train or validation.
    """
    about = json.loads((tree / "dataset.json").read_text())
    channels = about["channels"] if settings.channels == "auto" else settings.channels
    moments = np.zeros((2, channels))
    counts = {split: write_split(tree, folder, split, settings, moments) for split in SPLITS}
    mean, square = moments / counts["train"]["clips"]
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return {"channels": channels, "mean": mean.round(6).tolist(), "std": std.round(6).tolist(), "counts": counts}


def packer(settings: VideoEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> its middle, uint8 `[frames, channels, side, side]`."""
    return lambda row: clips_of(row, settings, facts["channels"]).middle


def write_split(tree: Path, folder: Path, split: str, settings: VideoEncoder, moments: np.ndarray) -> dict[str, int]:
    """What was counted. The training split's clips are added to `moments [2, channels]`: sums of mean and mean square."""
    shape = (settings.frames, moments.shape[1], settings.image_size, settings.image_size)
    index, clips, counted = [], [], Counter(videos=0, clips=0, still=0, cut=0, videos_without_clips=0)
    streamed, workers = rows(tree, split), os.cpu_count() or 1
    with (
        Growing(folder / f"{split}.clip.npy", shape) as samples,
        Growing(folder / f"{split}.training.clip.npy", shape) as training,
        ThreadPoolExecutor(workers) as pool,
    ):
        while chunk := list(islice(streamed, 2 * workers)):
            for row, found in zip(chunk, pool.map(lambda r: clips_of(r, settings, shape[1]), chunk), strict=True):
                samples.add(found.middle)
                index.append([*(row[column] for column in INDEX), np.float32(found.motion)])
                counted.update(found.counted, videos=1, clips=len(found.kept), videos_without_clips=not found.kept)
                for clip in found.kept:
                    training.add(clip.pixels)
                    clips.append([row["sample_id"], np.float32(clip.seconds), np.float32(clip.motion)])
                    if split == "train":
                        block = clip.pixels.astype(np.float64) / 255
                        moments += block.mean((0, 2, 3)), np.square(block).mean((0, 2, 3))
    pd.DataFrame(index, columns=[*INDEX, "motion"]).to_parquet(folder / f"{split}.parquet")
    pd.DataFrame(clips, columns=["sample_id", "seconds", "motion"]).to_parquet(folder / f"{split}.training.parquet")
    if not clips and split != "test":
        raise PipelineError(
            f"none of {len(index)} {split} videos has a clip of {settings.clip_seconds:g} seconds that moves "
            f"({counted['still']} stand still, {counted['cut']} hold a cut): lower encoder.min_motion or, for videos "
            "shorter than that, encoder.frames or encoder.every_seconds"
        )
    return dict(counted)


@dataclass(frozen=True, order=True)
class Clip:
    """A clip that moves; those that move more come last."""

    motion: float
    earlier: float
    """Minus its first frame's second: of equal motion the earlier counts for more."""
    pixels: np.ndarray = field(compare=False)
    """uint8 `[frames, channels, side, side]`"""

    @property
    def seconds(self) -> float:
        return -self.earlier


@dataclass(frozen=True)
class Clips:
    """What is taken of one video."""

    middle: np.ndarray
    motion: float
    """Of the middle."""
    kept: list[Clip]
    """In the order of time."""
    counted: Counter[str]
    """Clips left out: `still`, `cut`."""


def clips_of(row: dict[str, Any], settings: VideoEncoder, channels: int) -> Clips:
    """In one pass, with no more frames in memory than the clips that may be kept. A video shorter than a clip is followed
    by its last frame and not trained on."""
    size, every = settings.frames, settings.every_seconds
    middle_at = int(max(0.0, row["seconds"] - settings.clip_seconds) / 2 / every)
    apart = (size + 1) // 2
    window: deque[np.ndarray] = deque(maxlen=size)
    steps: deque[tuple[float, float]] = deque(maxlen=size - 1)
    middle, before = None, None
    kept: list[Clip] = []
    counted: Counter[str] = Counter()
    for tick, (_, frame) in enumerate(frames(row["video"]["bytes"], settings.image_size, channels, every)):
        now = coarse(frame)
        if before is not None:
            steps.append(change(before, now))
        before = now
        window.append(frame)
        first = tick - size + 1
        if first == middle_at:
            middle = np.stack(window), motion_of(steps)
        if first < 0 or first % apart:
            continue
        motion, cut = motion_of(steps), has_cut(np.array([difference for _, difference in steps]))
        if cut or motion < settings.min_motion:
            counted["cut" if cut else "still"] += 1
        elif len(kept) < settings.clips_per_video:
            heapq.heappush(kept, Clip(motion, -first * every, np.stack(window)))
        elif motion > kept[0].motion:
            heapq.heapreplace(kept, Clip(motion, -first * every, np.stack(window)))
    if middle is None:
        padding = [window[-1]] * (size - len(window))
        middle = np.stack([*window, *padding]), motion_of(steps)
    return Clips(*middle, sorted(kept, key=lambda clip: clip.seconds), counted)


def motion_of(steps: deque[tuple[float, float]]) -> float:
    return sum(motion for motion, _ in steps) / max(1, len(steps))


class Growing:
    """A .npy file of uint8 rows whose number is not known before the last one is added."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape, self.count = open(path, "wb"), shape, 0  # noqa: SIM115
        self.write_header()

    def write_header(self) -> None:
        """numpy pads it for any number of rows: it can be written again in place."""
        form = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, form)

    def add(self, row: np.ndarray) -> None:
        assert row.shape == self.shape and row.dtype == np.uint8
        self.file.write(np.ascontiguousarray(row).data)
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.seek(0)
        self.write_header()
        self.file.close()
