"""What quality costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ssl_pipeline.report.charts import blank, clean, png
from ssl_pipeline.report.ink import INK, MUTED, marks, plain
from ssl_pipeline.report.tables import Cell, duration


def cost(title: str, recipes: Mapping[str, tuple[float, Cell]], baselines: Mapping[str, Cell]) -> bytes:
    """PNG of a metric against the seconds of training that it took, a point a recipe with its interval; baselines, which are
    not pretrained, are lines across."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    figure = blank(7.6, 4.4)
    axes = figure.add_subplot()
    clean(axes)
    style = marks([*recipes, *baselines])
    for name, cell in baselines.items():
        axes.axhline(cell.mean, color=MUTED, lw=1, ls=style[name].dash if style[name].dash != "-" else (0, (5, 3)))
        axes.text(
            0.995, cell.mean, plain(name), transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=MUTED, fontsize=8
        )  # fmt: skip
    for name, (seconds, cell) in recipes.items():
        mark = style[name]
        error = np.array([[cell.mean - cell.low], [cell.high - cell.mean]]).clip(0)
        axes.errorbar(
            seconds, cell.mean, error, color=mark.colour, marker=mark.point, ms=7, mec="white", capsize=3, lw=1.4, ls="none",
            label=plain(name, 40),
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_xscale("log")
    spent = [value for value, _ in recipes.values()]
    axes.set_xlim(min(spent) / 2, max(spent) * 3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("time of pretraining (logarithmic)", color=MUTED, fontsize=9)
    axes.set_title(plain(title, 60), loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    return png(figure)
