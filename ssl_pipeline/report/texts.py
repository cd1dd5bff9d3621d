"""Sheets of texts: cells in rows and columns, each wrapped and cut to a few lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssl_pipeline.report.ink import HAIRLINE, INK, MUTED, PAPER, RIGHT, WRONG, plain
from ssl_pipeline.report.sheets import LINE, MARGIN, font, png, shorten

LONGEST = 400  # characters of a cell that are looked at


def text_sheet(
    rows: Sequence[Sequence[str]],
    column_titles: Sequence[str] = (),
    correct: np.ndarray | None = None,
    cell: int = 260,
    lines: int = 5,
) -> bytes:
    """PNG of texts, `cell` pixels and at most `lines` lines each; where `correct [rows, columns - 1]` is given, all cells but
    the first of a row get a tick or a cross. Raises ValueError where there is nothing to show."""
    if not rows or not rows[0]:
        raise ValueError("a sheet needs at least one text")
    wrapped = [[wrap(text, cell, lines) for text in row] for row in rows]
    heights = [LINE * max(len(one) for one in row) + 12 for row in wrapped]
    top = MARGIN + (LINE + 6 if column_titles else 0)
    width = 2 * MARGIN + len(rows[0]) * (cell + 16) - 16
    canvas = Image.new("RGB", (width, top + sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(column_titles):
        draw.text((MARGIN + column * (cell + 16), MARGIN), shorten(plain(title, 60), cell), MUTED, font())
    y = top
    for number, (row, height) in enumerate(zip(wrapped, heights, strict=True)):
        draw.line((MARGIN, y, width - MARGIN, y), HAIRLINE)
        for column, text in enumerate(row):
            x, colour = MARGIN + column * (cell + 16), INK
            if correct is not None and column:
                right = bool(correct[number, column - 1])
                colour = RIGHT if right else WRONG
                text = [f"{'✓' if right else '✗'} {text[0]}", *text[1:]]
            for i, line in enumerate(text):
                draw.text((x, y + 6 + i * LINE), line, colour, font())
        y += height
    return png(canvas)


def wrap(text: str, width: int, lines: int) -> list[str]:
    """At most so many lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    found = [""]
    for word in plain(text, LONGEST).split():
        longer = f"{found[-1]} {word}".strip()
        if not found[-1] or font().getlength(longer) <= width - 18:
            found[-1] = longer
        elif len(found) == lines:
            found[-1] += " …"
            break
        else:
            found.append(word)
    return [shorten(line, width) for line in found]
