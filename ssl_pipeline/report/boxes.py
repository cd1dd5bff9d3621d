"""Images with the boxes of what is there and of what was found; bars of a number a class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ssl_pipeline.report import charts, sheets
from ssl_pipeline.report.ink import BLUE, GREEN, INK, MUTED, PAPER, VERMILION, plain

COLUMNS, CELL, GAP = 4, 230, 10


def detections(
    images: Sequence[np.ndarray], truths: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> bytes:  # fmt: skip
    """PNG of images `[channels, height, width]`, uint8, each with the boxes that are true (green, thick) and those that were
    found with the highest scores, as many as are true (red, thin, with their score).
    `boxes [n, 4]`, `labels [n]` from 1, `scores [n]`."""
    if not images:
        raise ValueError("a sheet of detections needs an image")
    tiles = [drawn(*one, names) for one in zip(images, truths, found, strict=True)]
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    legend = [("true", GREEN), ("found, with its score: the surest, as many as are true", VERMILION)]
    top = sheets.MARGIN + sheets.LINE + 8
    width = 2 * sheets.MARGIN + columns * (CELL + GAP) - GAP
    size = (max(width, 380), top + sum(heights) + GAP * (len(rows) - 1) + sheets.MARGIN)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    x = sheets.MARGIN
    for text, colour in legend:
        draw.rectangle(
            (x, sheets.MARGIN, x + 13, sheets.MARGIN + 11), outline=colour, width=3 if colour == GREEN else 1
        )
        sheets.write(draw, (x + 20, sheets.MARGIN + 6), [text], "lm", INK)
        x += 50 + int(sheets.font().getlength(text))
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            canvas.paste(tile, (sheets.MARGIN + column * (CELL + GAP), y))
        y += height + GAP
    return sheets.png(canvas)


def drawn(pixels: np.ndarray, true: Mapping[str, Any], found: Mapping[str, Any], names: Sequence[str]) -> Image.Image:
    shown = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    picture = Image.fromarray(np.ascontiguousarray(shown.transpose(1, 2, 0)))
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)

    def corners(box: Any) -> tuple[float, ...]:
        left, top, right, bottom = (scale * float(edge) for edge in box)
        return left, top, max(left, right - 1), max(top, bottom - 1)

    for box in true["boxes"]:
        draw.rectangle(corners(box), outline=GREEN, width=3)
    order = np.argsort(-np.asarray(found["scores"]), kind="stable")
    surest = set(order[: len(true["boxes"])].tolist())
    for n, (box, score, label) in enumerate(zip(found["boxes"], found["scores"], found["labels"], strict=True)):
        if n in surest:
            left, top, right, bottom = corners(box)
            draw.rectangle((left, top, right, bottom), outline=VERMILION)
            text = (
                f"{float(score):.2f}" if len(names) == 1 else f"{plain(names[int(label) - 1], 12)} {float(score):.2f}"
            )
            y = top - 12 if top >= 12 else bottom - 12
            draw.rectangle((left, y, left + sheets.font().getlength(text) * 0.8 + 4, y + 11), VERMILION)
            draw.text((left + 2, y - 1), text, PAPER, sheets.font().font_variant(size=10))
    return picture


def bars(cells: Mapping[str, Mapping[str, float]], title: str, most: int = 40) -> bytes:
    """PNG of a share in 0..1 for each class, with its interval; the largest first, of very many the first and the last."""
    from matplotlib.ticker import PercentFormatter

    order = sorted(cells, key=lambda name: (-cells[name]["mean"], name))
    if not order:
        raise ValueError("bars need a class")
    left_out = max(0, len(order) - most)
    order = order if not left_out else order[: most // 2] + order[-(most // 2) :]
    figure = charts.blank(5.6, 1.0 + 0.3 * len(order))
    axes = figure.add_subplot()
    charts.clean(axes)
    axes.grid(visible=False)
    place = np.arange(len(order))[::-1]
    mean, low, high = (np.array([cells[name][key] for name in order]) for key in ("mean", "low", "high"))
    axes.barh(place, mean, 0.62, color=BLUE)
    axes.hlines(place, low, high, color=INK, lw=1.4)
    end = max(math.ceil(10 * float(high.max()) + 0.5) / 10, 0.2)
    for y, value, reach in zip(place, mean, high, strict=True):
        axes.text(reach + 0.012 * end, y, f"{value:.1%}", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(place, [plain(name, 24) for name in order], fontsize=9, color=INK, parse_math=False)
    axes.set_xlim(0, min(1.12, end * 1.08))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    said = f"{title} by class" + (f", without {left_out} in the middle" if left_out else "")
    axes.set_title(said, loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    return charts.png(figure)
