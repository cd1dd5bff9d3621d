"""The comparison of recipes and baselines, for a terminal and for Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from ssl_pipeline.report.ink import plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100  # columns of the terminal
STRONG = ("supervised", "identity alone", "features alone", "features shuffled", "one frame", "shuffled frames")
"""Baselines that train on labels, and controls that keep part of what was learnt. All others are to be beaten: a recipe that is
not above them has learnt nothing of use."""
PROBES = {
    "knn": "kNN",
    "linear": "linear",
    "attentive": "attentive",
    "full": "fine-tuned",
    "mIoU": "mIoU",
    "pixel accuracy": "pixel accuracy",
}
HEADS = {
    "kmeans": "k-means",
    "full": "all items ranked",
    "image_to_text": "image to text",
    "text_to_image": "text to image",
}
DESCRIPTIVE = ("coverage", "novelty")
"""Columns that say what is recommended, not how well: a random encoder has most of both."""
MISSING = "–"
SPENT = ("train_seconds", "encoder_passes", "energy_joules")
"""What a trained encoder's summary says of its cost, in the order in which `rows_of` takes it."""


@dataclass(frozen=True)
class Cell:
    """An accuracy in 0..1 with its interval; low and high may be NaN."""

    mean: float
    low: float
    high: float


class Row(TypedDict):
    """One recipe or baseline under one probe. `supervised` as the probe stands among the linear probe's columns."""

    name: str
    method: str
    probe: str
    shots: dict[Any, Cell]
    """By labels a class, counts or "all"."""
    baseline: NotRequired[bool]
    cost_seconds: NotRequired[float | None]
    passes: NotRequired[float | None]
    """Samples that the encoder saw while it was trained."""
    joules: NotRequired[float | None]


Column = tuple[str, str]
"""Probe and shots."""


@dataclass(frozen=True)
class Line:
    """One line of the table: everything measured of one recipe or baseline."""

    name: str
    method: str
    baseline: bool
    cells: dict[Column, Cell]
    spent: dict[str, str]
    """By what was spent."""

    @property
    def to_beat(self) -> bool:
        return self.baseline and not strong(self.name)


class Comparison:
    """Recipes in the given order, then the baselines. Best of a column bold, recipes above all that is to be beaten starred."""

    def __init__(self, rows: Sequence[Row], caption: str = "") -> None:
        self.caption = caption
        self.lines = gather(rows)
        columns = dict.fromkeys(column for line in self.lines for column in line.cells)
        # the probes in their order, then others as they come; of each the fewest labels first
        order = list(dict.fromkeys([*PROBES, *(probe for probe, _ in columns)]))
        self.columns = sorted(columns, key=lambda c: (order.index(c[0]), labels_in(c[1])))
        self.costs = [
            cost for cost in COSTS if cost in ALWAYS or any(line.spent[cost] != MISSING for line in self.lines)
        ]

    def text(self, line: Line, column: Column) -> str:
        """`91.2 ±0.6*` in percent; the larger side of an uneven interval."""
        cell = line.cells.get(column)
        if cell is None or not math.isfinite(cell.mean):
            return MISSING
        half = max(cell.mean - cell.low, cell.high - cell.mean)
        interval = f" ±{100 * half:.1f}" if half > 0 and math.isfinite(half) else ""
        return f"{100 * cell.mean:.1f}{interval}{'*' if self.starred(line, column) else ''}"

    def starred(self, line: Line, column: Column) -> bool:
        """The interval lies above those of all that is to be beaten; without them or intervals nothing is claimed."""
        if line.baseline:
            return False
        beaten = [other.cells.get(column) for other in self.lines if other.to_beat]
        return bool(beaten) and all(cell and line.cells[column].low > cell.high for cell in beaten)

    def best(self, line: Line, column: Column) -> bool:
        """Nothing in the column reads higher, and more is better there."""
        if column[1].startswith(DESCRIPTIVE):
            return False
        shown = [round(other.cells[column].mean, 3) for other in self.lines if column in other.cells]
        value = round(line.cells[column].mean, 3) if column in line.cells else math.nan
        return value == max((v for v in shown if math.isfinite(v)), default=None)

    def notes(self) -> list[str]:
        starred = any(self.starred(line, column) for line in self.lines for column in line.cells)
        beaten = [line.name for line in self.lines if line.to_beat]
        names = " and ".join([", ".join(beaten[:-1]), beaten[-1]] if len(beaten) > 1 else beaten)
        star = f"* above {names}: the intervals do not touch" if starred else ""
        return [note for note in (self.caption, star) if note]

    def rich(self) -> RenderableType:
        """For the terminal, at most 100 columns wide: one table, or one a probe where that is too wide."""
        from rich.console import Group
        from rich.text import Text

        name_width = min(32, max((len(plain(line.name, 60)) for line in self.lines), default=6))
        room = WIDTH - name_width - len(" 99.9 min passes" + " 99.9 Wh" * (len(self.costs) > len(ALWAYS)))
        groups = self._pack(self.columns, room)
        if len(groups) > 1:  # rather one table a probe
            probes = dict.fromkeys(probe for probe, _ in self.columns)
            groups = [g for probe in probes for g in self._pack([c for c in self.columns if c[0] == probe], room)]
        tables = [self._table(group, name_width) for group in groups]
        return Group(*tables, *(Text(f"\n{note}", style="dim") for note in self.notes()))

    def _pack(self, columns: list[Column], room: int) -> list[list[Column]]:
        """The columns in order, as many to a group as `room` characters hold, one at least."""
        groups: list[list[Column]] = [[]]
        left = room
        for column in columns:
            texts = [
                PROBES.get(column[0], column[0]),
                *(self.text(line, column).rstrip("*") + "*" for line in self.lines),
            ]
            width = 1 + max(map(len, texts))
            if width > left and groups[-1]:
                groups.append([])
                left = room
            groups[-1].append(column)
            left -= width
        return groups

    def _table(self, columns: list[Column], name_width: int) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, header_style="")
        table.add_column("\nrecipe", min_width=min(name_width, 14), max_width=name_width, overflow="fold")
        previous = ""
        for probe, shots in columns:
            # the probe's name stands once, over its first column
            table.add_column(
                f"{PROBES.get(probe, probe) if probe != previous else ''}\n{shots}", justify="right", no_wrap=True
            )
            previous = probe
        for cost in self.costs:
            table.add_column(f"\n{cost}", justify="right", no_wrap=True)
        for index, line in enumerate(self.lines):
            cells = [Text(self.text(line, column), "bold" if self.best(line, column) else "") for column in columns]
            # a star hangs to the right of the figures, which stay aligned
            hung = [cell if cell.plain.endswith("*") else cell + Text(" ") for cell in cells]
            recipes_end = not line.baseline and self.lines[index + 1 : index + 2] and self.lines[index + 1].baseline
            table.add_row(
                Text(plain(line.name, 60), "dim" if line.baseline else ""), *hung, *(line.spent[cost] for cost in self.costs),
                end_section=bool(recipes_end),
            )  # fmt: skip
        return table

    def markdown(self) -> str:
        """A GitHub table, its notes below. Names come from users and are escaped; the caption is taken as Markdown."""
        heads = [
            f"{PROBES.get(probe, escape(probe))}{f', {escape(shots)}' if shots else ''}"
            for probe, shots in self.columns
        ]
        header = ["recipe", "pretext task", *heads, *self.costs]
        out = [header, [":--", ":--"] + ["--:"] * (len(header) - 2)]
        for line in self.lines:
            cells = []
            for column in self.columns:
                text = self.text(line, column).replace("*", "\\*")
                cells.append(f"**{text}**" if self.best(line, column) else text)
            out.append([escape(line.name), escape(line.method), *cells, *(line.spent[cost] for cost in self.costs)])
        notes = [note.replace("* ", "\\* ", 1) if note.startswith("* ") else note for note in self.notes()]
        return "\n".join(f"| {' | '.join(row)} |" for row in out) + "".join(f"\n\n{note}" for note in notes) + "\n"


def comparison(rows: Sequence[Row], caption: str = "") -> Comparison:
    """The table of recipes and baselines; `.rich()` renders it for a terminal, `.markdown()` for everything else.

    `caption` says what the intervals are, such as "mean and range over 3 draws of the labels, 1,000 test images".
    """
    return Comparison(rows, caption)


def rows_of(
    name: str,
    method: str,
    metrics: dict[str, dict[str, float]],
    cost_seconds: float | None = None,
    passes: float | None = None,
    joules: float | None = None,
    *,
    baseline: bool = False,
) -> list[Row]:
    """Rows from an evaluation's metrics, `{"<kind>/<probe>/<metric>/<shots>": {"mean", "low", "high"}}`: accuracies by probe
    and shots, other metrics each in a column of its own (of classifiers none); of several depths, as in `ndcg_at_5`, those at 10
    alone, or at the deepest."""
    rows: dict[str, Row] = {}
    depths = {int(depth) for metric in metrics for depth in re.findall(r"/full/\w+_at_(\d+)/", metric)}
    shown = 10 if 10 in depths else max(depths, default=10)
    for metric, value in metrics.items():
        if metric.count("/") != 3 or "median" in metric or "/loss/" in metric:  # not a share
            continue
        if "/accuracy_under_" in metric:  # a column a corruption would be too many
            continue
        if metric.startswith("recommendation/") and "/full/" not in metric:  # and one a bucket of items
            continue
        kind, probe, measure, shots = metric.split("/")
        if kind in ("classification", "fine_tuning") and measure != "accuracy":
            continue  # a column a metric and shot count would be too many
        shots = shots.replace("pct", "%")
        if kind == "segmentation":
            probe = {"miou": "mIoU"}.get(measure, measure.replace("_", " "))
        elif measure != "accuracy":
            if re.search(rf"_at_(?!{shown}$)", measure) and probe == "full":
                continue
            probe, shots = (
                HEADS.get(probe, probe.replace("_", " ")),
                measure.replace("_at_", "@").replace("recall", "R").replace("_", " "),
            )
        elif probe == "test":
            probe, shots = "pretext task", "accuracy"
        row = rows.setdefault(
            probe,
            Row(
                name=name,
                method=method,
                probe=probe,
                shots={},
                baseline=baseline,
                cost_seconds=cost_seconds,
                passes=passes,
                joules=joules,
            ),
        )
        row["shots"][shots] = Cell(value["mean"], value["low"], value["high"])
    return list(rows.values())


def strong(name: str) -> bool:
    """Also where a recipe's name follows, to tell baselines of several encoders apart."""
    return name.split(",")[0] in STRONG


def labels_in(shots: str) -> float:
    """How many labels a class a column stands for, or how long its list is; 0 where it is neither. Shares, whose number of
    labels nothing says here, stand between counts and all."""
    if shots.endswith("%"):
        return 1e9 + float(shots[:-1])
    number = re.search(r"\d+$", shots)
    return math.inf if shots == "all" else float(number[0]) if number else 0.0


def gather(rows: Sequence[Row]) -> list[Line]:
    """Rows of one name become one line; the baselines go last, the strong ones at the end."""
    baselines = {row["name"] for row in rows if row.get("baseline")}
    names = sorted(dict.fromkeys(row["name"] for row in rows), key=lambda n: (n in baselines) + strong(n))
    lines = []
    for name in names:
        mine = [row for row in rows if row["name"] == name]
        cells = {
            ("linear" if row["probe"] == "supervised" else row["probe"], str(shots)): cell
            for row in mine
            for shots, cell in row["shots"].items()
        }
        spent = {cost: say(mine[0].get(field)) for cost, (field, say) in COSTS.items()}
        lines.append(Line(name, mine[0]["method"], name in baselines, cells, spent))
    return lines


def duration(seconds: float | None) -> str:
    """`45 s`, `2.5 min`, `3.1 h`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def count(number: float | None) -> str:
    """`950`, `12k`, `1.2M`."""
    if number is None or not math.isfinite(number):
        return MISSING
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}" if number / size < 999.5 else f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


def energy(joules: float | None) -> str:
    """`0.8 Wh`, `1.2 kWh`."""
    if joules is None or not math.isfinite(joules):
        return MISSING
    hours = joules / 3600
    return f"{hours:.2g} Wh" if hours < 9.95 else f"{hours:.0f} Wh" if hours < 999.5 else f"{hours / 1000:.1f} kWh"


COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "time": ("cost_seconds", duration),
    "passes": ("passes", count),
    "energy": ("joules", energy),
}
"""Columns at the right, with the row's field and how it is said; energy only where the machine could count it."""
ALWAYS = ("time", "passes")


def escape(text: object, longest: int = 60) -> str:
    """Text as it is, in one line of Markdown or a cell of a table: no markup, HTML or line break gets through."""
    line = plain(text, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]()!|~$#{}])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # inside a word it is no markup
