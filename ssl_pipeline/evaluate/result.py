"""What every evaluation hands back, and intervals of means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Cell = dict[str, float]
"""`mean`, and the 95% interval from `low` to `high`."""
Metrics = dict[str, Cell]
"""By name, `kind/probe/metric/shots`."""


@dataclass(frozen=True)
class Result:
    """Of one method on the test split."""

    metrics: Metrics
    pictures: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Name -> what `report.pictures` draws: the kind of picture and its arguments."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further things worth saying, such as the number of test samples."""


def bootstrap(values: np.ndarray, draws: int = 1000) -> Cell:
    """Mean over units `[n]` (users, images), and its 95% percentile interval over resamplings of them (Efron 1979)."""
    chance = np.random.default_rng(0)
    means = [values[chance.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
