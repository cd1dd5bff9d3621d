"""Images beside the classes of their pixels: what is true and what was found."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssl_pipeline.report import sheets
from ssl_pipeline.report.ink import BLUE, GREEN, INK, OCHRE, PAPER, PURPLE, SKY, VERMILION, plain

NOTHING = 255
FIRST = ("#2b2f3a", OCHRE, SKY, VERMILION, GREEN, PURPLE, BLUE)
"""Of the first classes, safe for colour-blind eyes; the rest have matplotlib's turbo."""
MOST_NAMED = 24


def segmentations(images: np.ndarray, truths: np.ndarray, found: np.ndarray, names: Sequence[str]) -> bytes:
    """PNG of images `[n, channels, side, side]`, uint8, a row each: the image, the classes `[n, side, side]` that are true, those
    that were found, and what each colour is. Where nothing is said (255) there is paper."""
    if not len(images):
        raise ValueError("a sheet of segmentations needs an image")
    table = colours(len(names))
    painted = [np.moveaxis(table[classes], -1, 1) for classes in (truths, np.where(truths == NOTHING, NOTHING, found))]
    grey = np.repeat(images[:, :1], 3, 1) if images.shape[1] < 3 else images[:, :3]
    rows = np.stack([grey, *painted], 1)
    sheet = Image.open(io.BytesIO(sheets.sheet(rows, ("image", "truth", "prediction"), cell=128)))
    return sheets.png(with_legend(sheet, names, table))


def colours(classes: int) -> np.ndarray:
    """uint8 `[256, 3]`"""
    from matplotlib import colormaps

    table = np.full((256, 3), 255, np.uint8)
    rest = colormaps["turbo"](np.linspace(0.05, 0.95, max(1, classes - len(FIRST))))[:, :3]
    for number in range(classes):
        hexadecimal = FIRST[number] if number < len(FIRST) else ""
        table[number] = (
            tuple(bytes.fromhex(hexadecimal[1:])) if hexadecimal else np.rint(255 * rest[number - len(FIRST)])
        )
    return table


def with_legend(sheet: Image.Image, names: Sequence[str], table: np.ndarray) -> Image.Image:
    shown = [plain(name, 24) for name in names[:MOST_NAMED]]
    left_out = len(names) - len(shown)
    lines = [*shown, *([f"and {left_out} more"] if left_out else [])]
    width = 40 + max(int(sheets.font().getlength(line)) for line in lines)
    height = max(sheet.height, 2 * sheets.MARGIN + sheets.LINE * (len(lines) + 1))
    canvas = Image.new("RGB", (sheet.width + width, height), PAPER)
    canvas.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        y = sheets.MARGIN + sheets.LINE * (row + 1)
        if row < len(shown):
            draw.rectangle((sheet.width, y, sheet.width + 12, y + 11), tuple(table[row].tolist()), outline=INK)
        sheets.write(draw, (sheet.width + 20, y + 6), [line], "lm", INK)
    return canvas
