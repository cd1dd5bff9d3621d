"""Forecasts beside what came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_pipeline.report.charts import blank, clean, png
from ssl_pipeline.report.ink import BLUE, INK, MUTED, VERMILION, plain

MOST_CHANNELS = 4


def forecasts(known: np.ndarray, truth: np.ndarray, foretold: np.ndarray, names: Sequence[str]) -> bytes:
    """PNG of windows (rows) by channels (columns, the first four): `known [n, channels, steps]`, then what came and what was
    foretold, both `[n, channels, horizon]`, in deviations of the training split."""
    n, channels, steps = known.shape
    shown, horizon = min(channels, MOST_CHANNELS), truth.shape[2]
    figure = blank(1.2 + 2.6 * shown, 0.9 + 1.15 * n)
    grid = figure.subplots(n, shown, squeeze=False, sharex=True)
    ahead = np.arange(steps - 1, steps + horizon)
    for row in range(n):
        for channel in range(shown):
            axes, last = grid[row, channel], known[row, channel, -1:]
            clean(axes)
            axes.plot(np.arange(steps), known[row, channel], color=MUTED, lw=1)
            axes.plot(ahead, np.append(last, truth[row, channel]), color=INK, lw=1.4, label="what came")
            axes.plot(
                ahead, np.append(last, foretold[row, channel]), color=VERMILION, lw=1.4, ls="--", label="foretold"
            )
            axes.axvline(steps - 1, color=BLUE, lw=0.7, ls=":")
            axes.tick_params(labelsize=7)
            if row == 0:
                axes.set_title(plain(names[channel]), loc="left", color=INK, fontsize=9)
    grid[0, -1].legend(frameon=False, fontsize=7, loc="upper left")
    grid[-1, 0].set_xlabel("steps", color=MUTED, fontsize=8)
    return png(figure)
