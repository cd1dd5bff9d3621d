"""Charts: training curves, the confusion matrix, accuracy against labels, features on a plane, accuracy under corruptions."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_pipeline.report.ink import BLUE, HAIRLINE, INK, MUTED, PAPER, SKY, VERMILION, marks, plain

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION = BLUE, VERMILION
FIRST = ("loss", "accuracy", "embedding_std", "effective_rank", "gradient_norm", "learning_rate")
LAST = ("samples_per_second", "data_wait_share")
MOST_POINTS = 2000  # a curve has no more pixels than that

Series = tuple[np.ndarray, np.ndarray]
"""Steps and finite values."""


def curves(rows: list[dict[str, Any]], total_steps: int | None = None, collapse_loss: float | None = None) -> bytes:
    """PNG of training so far from the lines of metrics.jsonl: one panel a metric, the loss large, `validation/x` in the
    panel of `x`. A row may lack any metric but `step`; what is not finite leaves a gap.

    `collapse_loss` is drawn into the loss as the line above which nothing is learnt.
    """
    metrics = {key.removeprefix("validation/") for row in rows for key in row} - {"step", "epoch"}
    order = [m for m in FIRST if m in metrics] + sorted(metrics - {*FIRST, *LAST}) + [m for m in LAST if m in metrics]
    order = [m for m in order if any(isinstance(row.get(key), (int, float)) for row in rows for key in of(m))]
    if not order:
        figure = blank(5, 1.2)
        figure.text(0.5, 0.5, "no training steps are logged yet", ha="center", va="center", color=MUTED, fontsize=10)
        return png(figure)

    columns = math.ceil((len(order) - 1) / 2)
    lines = min(2, max(1, len(order) - 1))
    figure = blank(5.2 + 2.5 * columns, 4.9)
    grid = figure.add_gridspec(lines, 1 + columns, width_ratios=[1.9] + [1] * columns)
    places = [grid[:, 0]] + [grid[line, 1 + column] for line in range(lines) for column in range(columns)]
    last_step = max(row["step"] for row in rows)
    for index, (metric, place) in enumerate(zip(order, places, strict=False)):
        axes = figure.add_subplot(place)
        draw_metric(axes, rows, metric, large=index == 0)
        axes.set_xlim(0, max(total_steps or 0, last_step, 1))
        if metric == "loss" and collapse_loss is not None:
            axes.axhline(collapse_loss, color=MUTED, lw=1, ls=(0, (4, 3)))
            low, high = axes.get_ylim()
            axes.set_ylim(low, max(high, collapse_loss + 0.07 * (high - low)))  # room for the words
            label(axes, 0.995, collapse_loss, f"nothing learnt: {number(collapse_loss, metric)}", transform="y")
        values = ((row["step"], row.get(key)) for row in rows for key in of(metric))
        bad = [step for step, value in values if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            axes.axvline(bad[0], color=VERMILION, lw=1, ls=":")
            side = "left" if bad[0] < axes.get_xlim()[1] / 2 else "right"
            label(axes, bad[0], 0.02, f" not finite \n at step {bad[0]:,} ", transform="x", ha=side, color=VERMILION)
        if place.rowspan.stop == lines:
            axes.set_xlabel("step", color=MUTED, fontsize=8)

    epoch = next((row["epoch"] for row in reversed(rows) if row.get("epoch") is not None), None)
    so_far = f"step {last_step:,}" + (f" of {total_steps:,}" if total_steps else "")
    so_far += "" if epoch is None else f"  ·  epoch {epoch:.1f}"
    figure.suptitle(so_far, x=0.012, ha="left", color=MUTED, fontsize=9)
    return png(figure)


def of(metric: str) -> tuple[str, str]:
    """The keys of a metric's two curves."""
    return metric, f"validation/{metric}"


def draw_metric(axes: Axes, rows: list[dict[str, Any]], metric: str, large: bool) -> None:
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    clean(axes)
    train, validation = (series(rows, key) for key in of(metric))
    both = [("train", TRAIN, train), ("validation", VALIDATION, validation)]
    both = [(name, colour, s) for name, colour, s in both if len(s[0])]
    values: list[Artist] = []
    for name, colour, (steps, value) in both:
        smooth = value if metric == "learning_rate" else smoothed(value)
        thick = 2.0 if large else 1.5
        point = "o" if (len(value) <= 30 and name == "validation") or len(value) == 1 else ""
        if smooth is not value:
            axes.plot(steps, value, color=colour, lw=0.7, alpha=0.28)
        axes.plot(steps, smooth, color=colour, lw=thick, marker=point, ms=4 if large else 3)
        shown = number(value[-1], metric)
        if (large and len(both) > 1) or (
            len(both) == 1 and name == "validation"
        ):  # small panels share the large one's names
            shown = f"{name} {shown}"
        values.append(TextArea(shown, textprops={"color": colour, "fontsize": 9 if large else 8}))
    if values:
        header = HPacker(children=values, pad=0, sep=10)
        place: dict[str, Any] = {"bbox_to_anchor": (1, 1), "bbox_transform": axes.transAxes, "borderpad": 0.25}
        axes.add_artist(AnchoredOffsetbox("lower right", child=header, frameon=False, pad=0, **place))
    axes.set_title(
        plain(metric.replace("_", " "), 40 if large else 22),
        loc="left",
        color=INK,
        fontsize=11 if large else 8.5,
        fontweight="bold",
        pad=5,
        parse_math=False,
    )
    axes.xaxis.set_major_locator(MaxNLocator(5 if large else 3, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(6 if large else 4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y, metric, tick=True)))


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """PNG of counts `[true, predicted]`: blue what is right, orange what is wrong, darker by its share of the row.

    Counts are written into up to 12 classes. Raises ValueError where the matrix is no table of counts of the classes.
    """
    counts = np.asarray(matrix, np.float64)
    k = len(classes)
    if k == 0 or counts.shape != (k, k) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"a confusion matrix of {k} classes needs [{k}, {k}] counts, not {list(counts.shape)}")
    share = counts / counts.sum(1, keepdims=True).clip(1e-12)
    # the square root lifts the few percent of a common mistake out of the paper's white
    right = blend(share, (0.93, 0.96, 0.98), (0.0, 0.33, 0.60))
    wrong = blend(np.sqrt(share), (1.0, 1.0, 1.0), (0.76, 0.29, 0.0))
    pixels = np.where(np.eye(k, dtype=bool)[..., None], right, wrong)
    names = [plain(name, 18) for name in classes]
    every = math.ceil(k / 120)
    size = max(2.6, 0.5 * k) if k <= 12 else min(13.0, max(5.6, 0.115 * k))
    longest = 0.075 * max(map(len, names))
    total, correct, mistakes = counts.sum(), np.trace(counts), counts * (1 - np.eye(k))
    accuracy = f"{correct / total:.1%} of {total:,.0f} right" if total else "nothing was classified"
    most = ""
    if mistakes.any():
        i, j = np.unravel_index(mistakes.argmax(), mistakes.shape)
        most = f"most often {names[i]} was taken for {names[j]}: {counts[i, j]:,.0f} of {counts[i].sum():,.0f}"

    figure = blank(1.0 + longest + max(size, 0.072 * len(most)), size + 1.2 + longest)
    axes = figure.add_subplot(anchor="W")
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
    fontsize = 9 if k <= 12 else max(5.5, 8.5 - k / 30)
    ticks = np.arange(0, k, every)
    style: dict[str, Any] = {"fontsize": fontsize, "color": INK, "parse_math": False}
    upright = k <= 12 and max(map(len, names)) <= 4
    axes.set_xticks(ticks, names[::every], rotation=0 if upright else 90, **style)
    axes.set_yticks(ticks, names[::every], **style)
    axes.set_xlabel("predicted", color=MUTED, fontsize=9)
    axes.set_ylabel("true class", color=MUTED, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_color(HAIRLINE)
    if k <= 40:
        axes.set_xticks(np.arange(1, k) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, k) - 0.5, minor=True)
        axes.grid(which="minor", color=PAPER if k <= 12 else HAIRLINE, lw=1.5 if k <= 12 else 0.5)
        axes.tick_params(which="minor", length=0)
    if k <= 12:
        for i, j in np.ndindex(k, k):
            if counts[i, j] or i == j:
                dark = pixels[i, j] @ (0.299, 0.587, 0.114) < 153
                text = f"{counts[i, j]:,.0f}" if counts[i, j] < 1e4 else f"{counts[i, j] / 1e3:,.0f}k"
                axes.text(j, i, text, ha="center", va="center", fontsize=9, color=PAPER if dark else INK)
    axes.set_title(accuracy, loc="left", color=INK, fontsize=11, fontweight="bold", pad=22 if most else 8)
    axes.annotate(
        most,
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
        parse_math=False,
    )
    return png(figure)


def efficiency(table: dict[str, list[tuple[int | str, float, float, float]]]) -> bytes:
    """PNG of accuracy against labels a class: for each method its `(shots, mean, low, high)`, fractions in 0..1; shots
    are counts, and `"all"` stands at the right after a break. Bands are low..high. What is not finite is left out.
    """
    from matplotlib.ticker import PercentFormatter

    lines = {
        method: sorted((math.inf if s == "all" else float(s), m, lo, hi) for s, m, lo, hi in points if math.isfinite(m))
        for method, points in table.items()
    }
    lines = {method: points for method, points in lines.items() if points}
    if not lines:
        raise ValueError("accuracy against labels needs at least one finite accuracy")
    shots = sorted({point[0] for points in lines.values() for point in points})
    numbers = [s for s in shots if s < math.inf]
    # position is log10(shots); "all", a different number in every dataset, is set apart behind a break
    end = math.log10(numbers[-1]) if numbers else 0.0
    step = max(0.4, (end - math.log10(numbers[0])) / max(1, len(numbers) - 1)) if numbers else 1.0
    position = {s: math.log10(s) if s < math.inf else end + step for s in shots}

    figure = blank(7.6, 4.4)
    axes = figure.add_subplot()
    clean(axes)
    style = marks(lines)
    ends = []
    for method, points in lines.items():
        x = [position[p[0]] for p in points]
        mean, low, high = (np.array([p[i] for p in points]) for i in (1, 2, 3))
        mark = style[method]
        low, high = (np.where(np.isfinite(bound), bound, mean) for bound in (low, high))
        axes.fill_between(x, low, high, color=mark.colour, alpha=0.14, lw=0)
        axes.vlines(x, low, high, color=mark.colour, lw=1, alpha=0.5)
        axes.plot(x, mean, color=mark.colour, ls=mark.dash, marker=mark.point, ms=5.5, mec=PAPER, mew=0.8, lw=1.8)
        ends.append((x[-1], float(mean[-1]), method))
    if numbers and math.inf in position:
        axes.axvline(end + step / 2, color=MUTED, lw=0.8, ls=(0, (1, 3)))
    axes.set_xticks([position[s] for s in shots], [f"{s:,.0f}" if s < math.inf else "all" for s in shots])
    axes.set_xlabel("labels a class" + " (logarithmic)" * (len(numbers) > 1), color=MUTED, fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("accuracy on the test split", loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    axes.tick_params(labelsize=9)
    axes.margins(x=0.04, y=0.06)
    low_limit, high_limit = axes.get_ylim()
    axes.set_ylim(max(low_limit, -0.02), min(high_limit, 1.02))

    low_limit, high_limit = axes.get_ylim()
    left, right = min(position.values()), max(position.values())
    reach = right - left or 1.0
    ends.sort(key=lambda e: e[1])
    for (x_end, y_end, method), y in zip(
        ends, apart([e[1] for e in ends], 0.058 * (high_limit - low_limit)), strict=True
    ):
        colour = style[method].colour
        axes.plot(
            [x_end + 0.02 * reach, right + 0.07 * reach], [y_end, y], color=colour, lw=0.6, alpha=0.6, clip_on=False
        )
        text = f"{y_end:.1%}  {plain(method, 32)}"
        axes.text(right + 0.085 * reach, y, text, color=colour, fontsize=9, va="center", parse_math=False)
    axes.set_xlim(left - (0.05 if right > left else 1) * reach, right + 0.05 * reach)
    return png(figure)


def projection(points: np.ndarray, classes: Sequence[str], named: int = 12) -> bytes:
    """PNG of samples on a plane `[n, 2]`, coloured by class, each class named in its middle. Of many classes the `named` most
    frequent have a colour, the rest is grey.

    Raises ValueError where points and classes are not as many."""
    if points.shape != (len(classes), 2):
        raise ValueError(f"{len(classes)} classes for points {list(points.shape)}: it needs one each of [n, 2]")
    from matplotlib.patheffects import withStroke

    own = np.array(classes, dtype=str)
    names, counts = np.unique(own, return_counts=True)
    shown = sorted(names[np.argsort(-counts, kind="stable")[:named]])
    width, height = np.ptp(points, axis=0) + 1e-9 if len(points) else (1, 1)
    figure = blank(6.6, 1.4 + 6 * float(np.clip(height / width, 0.5, 1.2)))
    axes = figure.add_subplot()
    axes.set_axis_off()
    rest = ~np.isin(own, shown)
    axes.scatter(points[rest, 0], points[rest, 1], s=10, color=HAIRLINE, lw=0)
    style = marks(shown)
    for name in shown:
        at, mark = points[own == name], style[name]
        axes.scatter(
            at[:, 0], at[:, 1], s=16, color=mark.colour, marker=mark.point, alpha=0.75, lw=0, label=plain(name, 18)
        )
    for name in shown:  # above all points
        x, y = np.median(points[own == name], axis=0)
        halo = [withStroke(linewidth=3, foreground=PAPER)]
        text: dict[str, Any] = {"color": style[name].colour, "fontsize": 10, "fontweight": "bold", "parse_math": False}
        axes.text(x, y, plain(name, 18), ha="center", va="center", path_effects=halo, **text)
    legend = axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9, labelcolor=INK
    )
    for words in legend.get_texts():
        words.set_parse_math(False)
    axes.set_title(f"{len(own):,} test samples (t-SNE)", loc="left", color=INK, fontsize=11, fontweight="bold", pad=16)
    others = f"; {len(names) - len(shown):,} rarer classes in grey" if rest.any() else ""
    note = f"who lies beside whom counts, how far groups lie apart does not{others}"
    axes.annotate(note, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=9)
    return png(figure)


def corruptions(accuracy: dict[str, Sequence[float]], unharmed: float, guessed: float) -> bytes:
    """PNG of accuracy by corruption: a bar for its mean, a dot a severity, mild to strong from pale to dark; lines where
    clean images stand (`unharmed`) and who always says the commonest class (`guessed`). Fractions in 0..1."""
    from matplotlib.ticker import PercentFormatter

    figure = blank(7.2, 1.1 + 0.25 * len(accuracy))
    axes = figure.add_subplot()
    clean(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=HAIRLINE, lw=0.8)
    place = np.arange(len(accuracy))[::-1]
    axes.barh(place, [float(np.mean(values)) for values in accuracy.values()], height=0.66, color=SKY, alpha=0.45)
    for y, values in zip(place, accuracy.values(), strict=True):
        for severity, value in enumerate(values):
            axes.plot(value, y, "o", ms=4.5, color=BLUE, alpha=(severity + 1) / len(values), mew=0)
    axes.set_yticks(
        place, [plain(name.replace("_", " ")) for name in accuracy], fontsize=9, color=INK, parse_math=False
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, max(1e-3, 1.04 * max(unharmed, *(max(values) for values in accuracy.values()))))
    axes.set_ylim(-0.6, len(accuracy) - 0.4)
    lower, upper = sorted([(unharmed, "clean"), (guessed, "commonest class")])
    for (value, name), side in ((lower, "right"), (upper, "left")):  # away from each other
        axes.axvline(value, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.annotate(f" {name} {value:.1%} ", (value, 1), (0, 3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha=side, va="bottom", color=MUTED, fontsize=8)  # fmt: skip
    axes.set_xlabel("accuracy of the linear probe; dots: severity 1 (pale) to 5 (dark)", color=MUTED, fontsize=9)
    return png(figure)


def apart(values: list[float], distance: float) -> list[float]:
    """The sorted values moved as little as needed so that neighbours are `distance` apart."""
    groups: list[list[float]] = []  # a pile of labels that touch: [centre, count]
    for value in values:
        groups.append([value, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < distance * (groups[-1][1] + groups[-2][1]) / 2:
            centre, count = groups.pop()
            below = groups[-1]
            below[0] = (below[0] * below[1] + centre * count) / (below[1] + count)
            below[1] += count
    return [centre + (i - (count - 1) / 2) * distance for centre, count in groups for i in range(int(count))]


def series(rows: list[dict[str, Any]], key: str) -> Series:
    """Steps and values of the rows that have a finite number under `key`, thinned to what a picture can show."""
    points = [
        (row["step"], float(row[key]))
        for row in rows
        if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
    ]
    stride = math.ceil(len(points) / MOST_POINTS)
    points = points[::-stride][::-1] if stride > 1 else points  # from the end: the last value always shows
    return np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a fifteenth of the curve, shorter at the ends; a short curve as it is."""
    half = len(values) // 30
    if half == 0:
        return values
    total = np.concatenate([[0.0], values.cumsum()])
    index = np.arange(len(values))
    first, last = (index - half).clip(0), (index + half + 1).clip(max=len(values))
    return np.asarray((total[last] - total[first]) / (last - first))


def number(value: float, metric: str, tick: bool = False) -> str:
    """A value as its metric is read: shares in percent, large ones with thousands marks."""
    if "accuracy" in metric or metric.endswith("_share"):
        return f"{100 * value:.3g}%" if tick else f"{100 * value:.1f}%"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}" if tick else f"{value:#.3g}".rstrip(".")


def blend(amount: np.ndarray, pale: tuple[float, float, float], full: tuple[float, float, float]) -> np.ndarray:
    """RGB `[..., 3]`, uint8, between two colours in 0..1."""
    mixed = amount[..., None] * np.array(full) + (1 - amount[..., None]) * np.array(pale)
    return np.asarray((255 * mixed).round().astype(np.uint8))


def label(axes: Axes, x: float, y: float, text: str, transform: str, ha: str = "right", color: str = MUTED) -> None:
    """Small text inside a panel; `transform` names the axis that is in data units, the other runs 0..1."""
    mixed = axes.get_xaxis_transform() if transform == "x" else axes.get_yaxis_transform()
    axes.text(x, y, text, transform=mixed, ha=ha, va="bottom", color=color, fontsize=8)


def clean(axes: Axes) -> None:
    """Only the lines that carry information."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=HAIRLINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.tick_params(axis="x", length=3, color=MUTED)


def blank(width: float, height: float) -> Figure:
    """An empty figure in inches. Figure objects and no pyplot: nothing global, so stages may draw in threads."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure((width, height), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12), facecolor=PAPER)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
