"""Learning curves of several methods, one beside the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_pipeline.report import charts
from ssl_pipeline.report.ink import INK, MUTED, PAPER, marks, plain

Point = tuple[int, float, float, float]
"""Step, and mean, low and high of the loss."""


def learning(curves: dict[str, Sequence[Point]]) -> bytes:
    """PNG of the validation loss against training steps, by method; bands are low..high. Raises ValueError where there is none."""
    if not curves:
        raise ValueError("learning curves need at least one method")
    from matplotlib.ticker import StrMethodFormatter

    figure = charts.blank(7.6, 4.4)
    axes = figure.add_subplot()
    charts.clean(axes)
    style = marks(curves)
    ends = []
    for method, points in curves.items():
        steps, mean, low, high = np.array(sorted(points), float).T
        mark = style[method]
        axes.fill_between(steps, low, high, color=mark.colour, alpha=0.14, lw=0)
        axes.plot(steps, mean, color=mark.colour, ls=mark.dash, marker=mark.point, ms=4.5, mec=PAPER, mew=0.8, lw=1.8)
        ends.append((float(mean[-1]), steps[-1], method))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0, last := max(end[1] for end in ends))
    axes.set_xlabel("training step", color=MUTED, fontsize=9)
    axes.set_title(
        "loss on the validation split, nats a token", loc="left", color=INK, fontsize=11, fontweight="bold", pad=8
    )
    axes.tick_params(labelsize=9)
    bottom, top = axes.get_ylim()
    ends.sort()
    places = charts.apart([end[0] for end in ends], 0.058 * (top - bottom))
    for (value, _, method), y in zip(ends, places, strict=True):
        axes.text(1.02 * last, y, f"{value:.2f}  {plain(method, 32)}", color=style[method].colour, fontsize=9, va="center",
                  parse_math=False)  # fmt: skip
    return charts.png(figure)
