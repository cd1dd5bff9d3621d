"""Colours, marks and lettering that all pictures share. Safe for colour-blind eyes: marks and dashes differ as well."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

PAPER = "#ffffff"
INK = "#1f2430"
MUTED = "#667080"
HAIRLINE = "#e2e5ea"
BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY = "#0072b2", "#d55e00", "#009e73", "#b85c93", "#c48a00", "#3d9fdc"
RIGHT, WRONG = GREEN, VERMILION

# A word in a method's name decides its colour, so that it is the same in every picture. Baselines come first: they are
# grey and dashed, and "random encoder, linear probe" is a baseline before it is a linear probe.
BASELINES = {"random": "#7f8896", "raw": "#5b6472", "supervised": INK}
METHODS = {"simclr": BLUE, "rotation": VERMILION, "inpainting": GREEN, "linear": BLUE, "knn": OCHRE}
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY)


@dataclass(frozen=True)
class Mark:
    """How a method is drawn: line colour, dash pattern and point shape in matplotlib's terms."""

    colour: str
    dash: str
    point: str


def marks(names: Iterable[str]) -> dict[str, Mark]:
    """A mark for each method: fixed by the name's known word, else by its hash; two methods of one picture differ."""
    found: dict[str, Mark] = {}
    taken: list[str] = []
    for name in sorted(names):
        words = name.lower()
        if baseline := next((word for word in BASELINES if word in words), None):
            found[name] = Mark(BASELINES[baseline], {"random": ":", "raw": "--", "supervised": "-."}[baseline], "o")
            continue
        wanted = next(
            (c for word, c in METHODS.items() if word in words),
            PALETTE[zlib.crc32(name.encode(errors="replace")) % len(PALETTE)],
        )
        # on a clash the least used colour of the palette; once all are used the point's shape tells them apart
        colour = wanted if wanted not in taken else min(PALETTE, key=taken.count)
        found[name] = Mark(colour, "-", "osD^vPX*"[taken.count(colour) % 8])
        taken.append(colour)
    return found


def plain(text: object, longest: int = 24) -> str:
    """Text that any font can set on one line: no control characters, blanks collapsed, too long a tail an ellipsis."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
