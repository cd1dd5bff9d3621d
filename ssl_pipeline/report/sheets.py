"""Contact sheets: images in rows and columns, with titles."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssl_pipeline.report.ink import INK, MUTED, PAPER, RIGHT, WRONG, plain

MARGIN, GAP, LINE = 14, 6, 16  # pixels
TITLES_WIDTH = 150


def sheet(rows: np.ndarray, column_titles: Sequence[str] = (), row_titles: Sequence[str] = (), cell: int = 96) -> bytes:
    """PNG of images `[rows, columns, channels, height, width]`, float in 0..1 or uint8.

    An image's longer side comes out near `cell` pixels: small ones are enlarged by whole numbers, so that their pixels
    stay visible, large ones are averaged down. Of three or more channels the first three show, of two the first.
    Raises ValueError where there is nothing to show or a title too many or too few.
    """
    if rows.ndim != 5 or 0 in rows.shape:
        raise ValueError(f"a sheet needs images [rows, columns, channels, height, width], not {list(rows.shape)}")
    for titles, count in ((column_titles, rows.shape[1]), (row_titles, rows.shape[0])):
        if titles and len(titles) != count:
            raise ValueError(f"{len(titles)} titles for {count} columns or rows of images")
    tiles = [[tile(image, cell) for image in row] for row in rows]
    width, height = tiles[0][0].size
    headings = [wrap(title, width) for title in column_titles]
    asides = [wrap(title, TITLES_WIDTH) for title in row_titles]
    left = MARGIN + (10 + max(int(font().getlength(line)) for aside in asides for line in aside) if asides else 0)
    top = MARGIN + (6 + LINE * max(len(heading) for heading in headings) if headings else 0)

    canvas = Image.new(
        "RGB",
        (left + len(tiles[0]) * (width + GAP) - GAP + MARGIN, top + len(tiles) * (height + GAP) - GAP + MARGIN),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        write(draw, (left + column * (width + GAP) + width / 2, top - 6), heading, "md")
    for row, images in enumerate(tiles):
        y = top + row * (height + GAP)
        if asides:
            write(draw, (left - 10, y + height / 2), asides[row], "rm")
        for column, image in enumerate(images):
            canvas.paste(image, (left + column * (width + GAP), y))
    return png(canvas)


def neighbours(queries: np.ndarray, retrieved: np.ndarray, correct: np.ndarray | None = None, cell: int = 80) -> bytes:
    """PNG of queries `[q, channels, height, width]` at the left and what was retrieved for each, `[q, k, ...]`, nearest
    first; `correct [q, k]` frames a neighbour green with a tick or red with a cross."""
    if retrieved.ndim != 5 or 0 in retrieved.shape or queries.shape != retrieved[:, 0].shape:
        raise ValueError(f"{list(retrieved.shape)} are no neighbours [q, k, ...] of queries {list(queries.shape)}")
    first = tile(queries[0], cell)
    width, height = first.size
    count, k = retrieved.shape[:2]
    frame, gap, aisle = 3, 12, 34
    top = MARGIN + LINE + 8
    left = MARGIN + width + aisle
    footer = 0 if correct is None else LINE + 8
    note = (
        ""
        if correct is None
        else f"{int(correct.sum()):,} of {correct.size:,} neighbours ({correct.mean():.0%}) are of the query's class"
    )
    canvas = Image.new(
        "RGB",
        (
            max(left + k * (width + gap) - gap, MARGIN + int(font().getlength(note))) + MARGIN,
            top + count * (height + gap) - gap + footer + MARGIN,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    write(draw, (MARGIN, top - 8), ["query"], "ld")
    write(
        draw, (left, top - 8), ["nearest neighbours, closest first" if k * (width + gap) > 220 else "neighbours"], "ld"
    )
    for row in range(count):
        y = top + row * (height + gap)
        canvas.paste(tile(queries[row], cell), (MARGIN, y))
        for column in range(k):
            x = left + column * (width + gap)
            if correct is not None:
                right = bool(correct[row, column])
                draw.rectangle(
                    (x - frame, y - frame, x + width + frame - 1, y + height + frame - 1), RIGHT if right else WRONG
                )
            canvas.paste(tile(retrieved[row, column], cell), (x, y))
            if correct is not None:
                badge(draw, (x + width - 7, y + height - 7), right)
    aisle_x = left - (aisle + frame) // 2
    draw.line((aisle_x, top, aisle_x, top + count * (height + gap) - gap), "#d4d8de")
    if note:
        write(draw, (MARGIN, canvas.height - MARGIN + 3), [note], "ld", MUTED)
    return png(canvas)


def tile(image: np.ndarray, cell: int) -> Image.Image:
    """One image `[channels, height, width]` as RGB pixels of about `cell` a side."""
    if image.dtype != np.uint8:
        image = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=1, neginf=0).clip(0, 1)
        image = (image * 255).round().astype(np.uint8)
    shown = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    picture = Image.fromarray(np.ascontiguousarray(shown.transpose(1, 2, 0)))
    longer = max(picture.size)
    if longer < cell:
        times = max(1, round(cell / longer))
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    size = tuple(max(1, round(side * cell / longer)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.BOX)


def badge(draw: ImageDraw.ImageDraw, centre: tuple[float, float], right: bool) -> None:
    """A tick or a cross on a disc, for eyes that do not tell green from red."""
    x, y = centre
    draw.ellipse((x - 8, y - 8, x + 8, y + 8), RIGHT if right else WRONG, PAPER)
    strokes = [((-4, 0), (-1, 3), (4, -3))] if right else [((-3, -3), (3, 3)), ((-3, 3), (3, -3))]
    for stroke in strokes:
        draw.line([(x + dx, y + dy) for dx, dy in stroke], PAPER, 2)


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """The face that matplotlib ships and the charts use."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 12)


def wrap(text: str, width: int) -> list[str]:
    """At most two lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in plain(text, 80).split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font().getlength(longer) <= width or len(lines) == 2:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shorten(line, width) for line in lines]


def shorten(line: str, width: int) -> str:
    if font().getlength(line) <= width:
        return line
    while line and font().getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], lines: list[str], anchor: str, colour: str = INK) -> None:
    """Lines of text at a point: anchor is `l`, `m` or `r` and `d` (the block ends there) or `m` (is centred there)."""
    x, y = at
    y -= LINE * (len(lines) - 1) / (1 if anchor[1] == "d" else 2)
    for row, line in enumerate(lines):
        draw.text((x, y + row * LINE), line, colour, font(), anchor)


def png(canvas: Image.Image) -> bytes:
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()
