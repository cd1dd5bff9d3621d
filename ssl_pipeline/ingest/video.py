"""Videos: what a sample of one is, and its frames as training sees them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE, FLOAT, INT, Sample, ranges
from ssl_pipeline.ingest.video_file import Frame, decode

MIN_FRAMES = 2
MAX_PAUSE = 1.0
"""Seconds after which a frame that nothing follows counts as over: a garbled timestamp must not become hours of it."""
TOLERANCE = 2e-3
"""Seconds: containers round timestamps to milliseconds."""


class Videos:
    """Video files. A sample's identity is its decoded frames, all of them, at full size; when they are shown does not
    count."""

    columns = {
        "video": (FILE, {"_type": "Video"}),
        "frames": INT,
        "fps": FLOAT,
        "seconds": FLOAT,
        "height": INT,
        "width": INT,
    }

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        digest = hashlib.blake2b(digest_size=16)
        count, last, size, grey = 0, 0.0, (0, 0), True
        for frame in decode(data):
            for part in frame.content():
                digest.update(part)
            size, grey = (size, grey) if count else (frame.size, frame.grey)
            count, last = count + 1, frame.seconds
        if count < MIN_FRAMES:
            raise BadSample(f"too few frames: {count}, below {MIN_FRAMES}")
        fps = (count - 1) / last
        seconds = last + 1 / fps
        measures = {"frames": count, "height": size[0], "width": size[1]}
        columns = {"video": {"bytes": data, "path": None}, "fps": fps, "seconds": seconds}
        counted = {"milliseconds": round(seconds * 1000), "channels": 1 if grey else 3}
        return Sample(digest.hexdigest(), columns | measures, measures | counted)

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        return {
            "channels": max(tallies["channels"]),
            "sizes": ranges(tallies, "height", "width"),
            "lengths": ranges(tallies, "frames", "milliseconds"),
        }


def frames(
    data: bytes, side: int, channels: int, every: float | None = None, limit: int | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Each frame's seconds since the first one, and its centre square, uint8 `[channels, side, side]`: upright, resized with
    antialiasing.

    With `every`, what is on the screen at 0, `every`, 2 * `every` ... seconds, whatever the frame rate and however it varies.
    At most `limit` of them. Raises BadSample as `decode` does.
    """
    decoded = ((frame.seconds, frame) for frame in decode(data))
    for number, (seconds, frame) in enumerate(decoded if every is None else on_screen(decoded, every)):
        if number == limit:
            return
        yield seconds, frame.square(side, channels)


def on_screen(decoded: Iterator[tuple[float, Frame]], every: float) -> Iterator[tuple[float, Frame]]:
    """The frame that is shown at each multiple of `every` seconds, until the last one begins. Pauses are cut short to
    MAX_PAUSE."""
    tick, cut, shown, last = 0, 0.0, None, 0.0
    for seconds, frame in decoded:
        cut += max(0.0, seconds - last - MAX_PAUSE)
        while shown is not None and tick * every < seconds - cut - TOLERANCE:
            yield tick * every, shown
            tick += 1
        shown, last = frame, seconds
    if shown is not None and tick * every <= last - cut + TOLERANCE:
        yield tick * every, shown
