"""The numbers that judge features without labels: what they are called, which way is better, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One of the numbers of `quality.py`."""

    title: str
    higher_is_better: bool

    @property
    def described(self) -> str:
        return f"{self.title} ({'higher' if self.higher_is_better else 'lower'} is better)"


MEASURES = {
    "rankme": Measure("RankMe, directions in use", True),
    "lidar": Measure("LiDAR, directions that tell samples apart", True),
    "alpha_req": Measure("alpha-ReQ, decay of the spectrum", False),
    "alignment": Measure("alignment", False),
    "uniformity": Measure("uniformity", False),
}
"""By their names in the summary of the stage `features`. Of alpha-ReQ's exponent, 1 is the ideal (Agrawal et al. 2022), and
encoders mostly lie above it."""
FEWEST = 3
"""Recipes from which an order can be compared at all."""


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b between a measure and an accuracy; 1 where the better number always goes with the better accuracy."""

    measure: str
    tau: float
    p_value: float
    """Of an association as strong, either way, where there is none; exact where nothing is tied."""
    recipes: int


def rank_correlation(rows: Sequence[Mapping[str, float]]) -> list[RankCorrelation]:
    """How far each measure puts recipes in the order of their `accuracy`. A row is a recipe's numbers by name, of one dataset;
    a measure counts where three rows or more have it and they are not all equal."""
    from scipy import stats

    found = []
    for name, measure in MEASURES.items():
        pairs = np.array([(row[name], row["accuracy"]) for row in rows if name in row])
        if len(pairs) < FEWEST:
            continue
        tau, p_value = stats.kendalltau(*pairs.T)
        if np.isfinite(tau):
            sign = 1 if measure.higher_is_better else -1
            found.append(RankCorrelation(name, sign * float(tau), float(p_value), len(pairs)))
    return found
