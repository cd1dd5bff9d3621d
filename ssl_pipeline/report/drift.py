"""How far new samples are told from old ones."""

from __future__ import annotations

import numpy as np

from ssl_pipeline.report.charts import blank, clean, png
from ssl_pipeline.report.ink import INK, MUTED, marks


def drift(old: np.ndarray, new: np.ndarray, p_value: float) -> bytes:
    """PNG of two histograms: the probability with which a classifier takes old samples, and new ones, for new."""
    figure = blank(7.6, 3.4)
    axes = figure.add_subplot()
    clean(axes)
    style = marks(["old", "new"])
    edges = np.linspace(0, 1, 21).tolist()
    for name, scores in (("old, held out", old), ("new", new)):
        colour = style[name.split(",")[0]].colour
        axes.hist(scores, edges, color=colour, alpha=0.25)
        axes.hist(scores, edges, color=colour, histtype="step", lw=1.6, label=f"{name} ({len(scores):,})")
    axes.axvline(0.5, color=MUTED, lw=1, ls="--")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_xlim(0, 1)
    axes.set_xlabel("taken for new, with this probability", color=MUTED, fontsize=9)
    axes.set_ylabel("samples", color=MUTED, fontsize=9)
    said = "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.4f}"
    axes.set_title(
        f"can new samples be told from old ones? {said}", loc="left", color=INK, fontsize=11, fontweight="bold", pad=8
    )
    return png(figure)
