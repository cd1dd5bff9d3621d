"""Bytes to pixels: the one place where an image is decoded, and the rules for what a pixel's value is.

Whatever comes in (16-bit, float, 1-bit, palette, alpha, CMYK, turned by EXIF), 8-bit grey or RGB comes out, upright.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE, INT, Sample, ranges

T = TypeVar("T")
MAX_PIXELS = 100_000_000
FORMATS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG",),
    "WEBP": (b"RIFF",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "GIF": (b"GIF8",),
}
"""Formats that are read, and how their files begin."""

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Images:
    """Image files: a sample's identity is its decoded pixels."""

    columns = {"image": (FILE, {"_type": "Image"}), "height": INT, "width": INT}

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        image = decode(data)
        size = {"height": image.height, "width": image.width}
        return Sample(
            sample_id(image),
            {"image": {"bytes": data, "path": None}, **size},
            {**size, "channels": len(image.getbands())},
        )

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        return {"channels": max(tallies["channels"]), "sizes": ranges(tallies, "height", "width")}


def decode(data: bytes, channels: int | None = None) -> Image.Image:
    """The first frame as an upright 8-bit image in mode L or RGB (`channels` 1 or 3 decides; None keeps grey grey).

    Alpha is composited on white, 16-bit values are divided by 257. Raises BadSample with the reason; images above 100
    megapixels are refused by their header, before anything is decoded.
    """
    image = opened(data, lambda image: _eight_bit(_upright(image)))
    return image if channels is None else image.convert("L" if channels == 1 else "RGB")


def opened(data: bytes, then: Callable[[Image.Image], T]) -> T:
    """What `then` makes of the first frame as it is stored. Raises BadSample with the reason."""
    if not data:
        raise BadSample("empty file")
    looks_like = next((name for name, starts in FORMATS.items() if data.startswith(starts)), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning comes at another limit than ours
            image: Image.Image = Image.open(BytesIO(data), formats=tuple(FORMATS))
            if image.width * image.height > MAX_PIXELS:
                raise BadSample(f"oversized: {image.width}x{image.height} pixels, above 100 megapixels")
            image.load()
            return then(image)
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample(f"oversized: {error}") from error
    except UnidentifiedImageError as error:
        raise BadSample(f"damaged or unsupported {looks_like}" if looks_like else "not an image") from error
    except Exception as error:  # on hostile bytes Pillow's decoders raise nearly anything, SyntaxError included
        raise BadSample(
            f"damaged {looks_like or 'image'}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def to_square(image: Image.Image, side: int, channels: int) -> np.ndarray:
    """uint8 `[channels, side, side]`: the centre square, resized with antialiasing. Same size: the same pixels."""
    square = centre(image.convert("L" if channels == 1 else "RGB"), side, Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.uint8).reshape(side, side, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def centre(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """The centre square, `side` pixels wide."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.resize((side, side), resampling, box=(left, top, left + short, top + short))


def sample_id(image: Image.Image) -> str:
    """BLAKE2b-128 of a decoded image's mode, size and pixels, in hexadecimal: equal pixels are the same sample."""
    digest = hashlib.blake2b(f"{image.mode} {image.width}x{image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation of a loaded image (for TIFF, Pillow did so when loading)."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a garbled EXIF block says nothing about the pixels; Pillow raises nearly anything on one
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(image)))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    return image.convert("L" if grey else "RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """uint8 from 16-bit, 32-bit or float grey. An image's own range never stretches it: scales are fixed."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # also false for NaN
        raise BadSample(
            f"unknown scale: values from {low:g} to {high:g}, expected 0..65535 (floats also 0..1 or 0..255)"
        )
    if np.issubdtype(values.dtype, np.integer):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
    return np.rint(values * scale).astype(np.uint8)
