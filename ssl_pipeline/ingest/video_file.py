"""A video file's frames: decoded from bytes alone, in presentation order, one in memory at a time.

FFmpeg guesses formats, and some of them (playlists, concat scripts) name further files and addresses, which it would open. Here
a file's first bytes decide the container, from a short list, and whatever FFmpeg wants to open besides is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from PIL import Image

from ssl_pipeline.ingest.images import to_square
from ssl_pipeline.ingest.item import BadSample

MAX_PIXELS = 36_000_000
"""Of a frame: 8K video."""
MAX_FRAMES = 1_000_000
MAX_DECODED = 1 << 38
"""Pixels of all frames: 75 minutes of 1920x1080, 33 hours of 320x240, at 30 frames a second."""
CODECS = [
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "libdav1d",
    "mpeg4",
    "msmpeg4v1",
    "msmpeg4v2",
    "msmpeg4",
    "mpeg1video",
    "mpeg2video",
    "h263",
    "mjpeg",
    "theora",
    "gif",
    "ffv1",
    "ffvhuff",
    "huffyuv",
    "utvideo",
    "rawvideo",
    "png",
    "qtrle",
    "prores",
    "dnxhd",
    "dvvideo",
    "cinepak",
    "svq1",
    "svq3",
    "indeo5",
    "wmv1",
    "wmv2",
    "wmv3",
    "vc1",
]
"""FFmpeg's names of the decoders that are used, out of several hundred."""


def container_of(data: bytes) -> str | None:
    """FFmpeg's name of the container, by how the file begins; None for anything that is not on the list."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mp4"
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "avi"
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return "mpegts"
    starts = {b"\x1aE\xdf\xa3": "matroska", b"OggS": "ogg", b"GIF8": "gif", b"\0\0\1\xba": "mpeg"}
    return next((name for start, name in starts.items() if data.startswith(start)), None)


@dataclass(frozen=True)
class Turn:
    """What makes a stored frame upright: rows and columns change places, then either axis is mirrored."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Turn:
        """The quarter turn or mirroring nearest to the display matrix, which maps a stored pixel (x, y) to the shown one
        (a x + c y, b x + d y)."""
        notes: Any = frame.side_data
        matrix = np.frombuffer(notes[SideData.DISPLAYMATRIX], np.int32) if SideData.DISPLAYMATRIX in notes else ()
        if len(matrix) < 5:
            return cls()
        a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """`[channels, height, width]` as stored -> upright."""
        pixels = pixels.swapaxes(1, 2) if self.swap else pixels
        return np.ascontiguousarray(pixels[:, :: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    seconds: float
    """Since the first one."""
    stored: av.VideoFrame
    """As it lies in the file: not turned, in its own pixel format."""
    turn: Turn
    aspect: float
    """Width of a stored pixel over its height."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright, in pixels."""
        height, width = self.stored.height, self.stored.width
        return (width, height) if self.turn.swap else (height, width)

    @property
    def grey(self) -> bool:
        return self.stored.format.name.startswith("gray")

    def square(self, side: int, channels: int) -> np.ndarray:
        """uint8 `[channels, side, side]`: the centre square as a player shows it, transparency on white."""
        image = self._image()
        if self.aspect != 1:
            image = image.resize((max(1, round(image.width * self.aspect)), image.height), Image.Resampling.BICUBIC)
        return self.turn.apply(to_square(image, side, channels))

    def _image(self) -> Image.Image:
        if not any(component.is_alpha for component in self.stored.format.components):
            return self.stored.to_image()
        image = Image.fromarray(self.stored.to_ndarray(format="rgba"))
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        return paper

    def content(self) -> Iterator[bytes | memoryview]:
        """What makes two frames equal: how they are turned, their size, and their numbers as they were decoded, as a
        conversion to RGB may round differently on another processor. RGB in any layout is the same."""
        frame, form = self.stored, self.stored.format
        if form.is_rgb or form.has_palette:
            transparent = form.has_palette or any(component.is_alpha for component in form.components)
            name = "rgba" if transparent else "rgb24"
            planes = [frame.to_ndarray(format=name)]
        else:
            name, planes = form.name, [plane_of(frame, number) for number in range(len(frame.planes))]
        yield f"{name} {frame.width}x{frame.height} {self.turn}".encode()
        yield from (np.ascontiguousarray(plane).data for plane in planes)


def plane_of(frame: av.VideoFrame, number: int) -> np.ndarray:
    """uint8 `[rows, bytes of a row]` of a plane, without the padding at the rows' ends."""
    parts = [part for part in frame.format.components if part.plane == number]
    width = sum(part.width * (-(-part.bits // 8)) for part in parts)
    plane = frame.planes[number]
    lines = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    return lines.reshape(-1, abs(plane.line_size))[: plane.height, :width]


def decode(data: bytes) -> Iterator[Frame]:
    """A video's frames; their seconds rise.

    Where the stream is damaged or cut off after the first frame the video ends there: what came before is whole, and what a
    decoder makes up after an error it reports is never seen. Raises BadSample with the reason where there is no such
    frame; frames above 36 megapixels are refused by the header, before anything is decoded.
    """
    if not data:
        raise BadSample("empty file")
    name = container_of(data)
    if name is None:
        raise BadSample("not a video")
    count = 0
    try:
        for frame in _decode(data, name):
            count += 1
            yield frame
    except BadSample:
        raise
    except Exception as error:  # on hostile bytes FFmpeg reports, and PyAV raises, nearly anything
        if not count:
            said = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
            raise BadSample(f"damaged {name}: {said}") from error
    if not count:
        raise BadSample("no frames")


def _decode(data: bytes, container_name: str) -> Iterator[Frame]:
    options = {"codec_whitelist": ",".join(CODECS)}
    with av.open(Rationed(data), "r", container_name, io_open=refuse, container_options=options) as container:
        stream = picture_stream(container)
        step, aspect = 1 / rate_of(stream), aspect_of(stream)
        start, last, count, pixels = None, 0.0, 0, 0
        for packet in container.demux(stream):
            cut_off = start is not None and packet.is_corrupt
            for frame in () if cut_off else packet.decode():
                if start is not None and frame.is_corrupt:
                    return
                count, pixels = count + 1, pixels + frame.width * frame.height
                if count > MAX_FRAMES or pixels > MAX_DECODED:
                    raise BadSample(f"oversized: {count} frames, {pixels:.1e} pixels and more: cut it into pieces")
                if start is None:
                    start = frame.time or 0.0
                    seconds = 0.0
                else:  # timestamps may be missing or garbled; the decoder's order is right all the same
                    seconds = last + step if frame.time is None else frame.time - start
                    seconds = max(seconds, last + 1e-3)
                last = seconds
                yield Frame(seconds, frame, Turn.of(frame), aspect)
            if cut_off:
                return


class Rationed(BytesIO):
    """The file, for a demuxer that a garbled index may send round in circles: it is stopped."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.ration = (1 << 30) + 64 * len(data)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.ration -= len(data)
        if self.ration < 0:
            raise BadSample("damaged: its index leads round in circles")
        return data


def refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    """What FFmpeg gets for every file or address that it wants to open besides."""
    raise PermissionError(f"names another file: {url}")


def picture_stream(container: Any) -> Any:
    """The stream that a player would show, ready to decode. Raises BadSample where there is none, its codec is not on the
    list or its frames are oversized."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise BadSample("not a video: no video stream")
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        raise BadSample(f"unsupported codec: {context.name if context else 'unknown'}")
    if context.width * context.height > MAX_PIXELS:
        raise BadSample(f"oversized: {context.width}x{context.height} pixels, above {MAX_PIXELS // 10**6} megapixels")
    context.thread_count = 1
    # the same pixels on every processor; frames may be larger than the header says, until max_pixels stops them
    context.options = {"flags": "+bitexact", "idct": "simple", "max_pixels": str(MAX_PIXELS)}
    return stream


def rate_of(stream: Any) -> float:
    """Frames a second as the header says, where that is plausible: it counts for frames without timestamps only."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0.1 <= rate <= 1000 else 25.0


def aspect_of(stream: Any) -> float:
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 0.25 <= aspect <= 4 else 1.0
