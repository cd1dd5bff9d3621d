"""What every evaluation hands back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

Cell = dict[str, Any]
"""`mean`, and the 95% interval from `low` to `high`; where it is a mean over test samples, their `scores`, for paired tests."""
Metrics = dict[str, Cell]
"""By name, `kind/probe/metric/shots`."""


def t_half(values: Sequence[float] | np.ndarray) -> float:
    """Half of the 95% interval of a mean over draws, by Student's t; 0 of a single one."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else 0.0


@dataclass(frozen=True)
class Result:
    """Of one method on the test split."""

    metrics: Metrics
    pictures: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Name -> what `report.pictures` draws: the kind of picture and its arguments."""
    controls: dict[str, Metrics] = field(default_factory=dict)
    """The same method with something taken from it, by the name of the control; shown among the baselines."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further things worth saying, such as the number of test samples."""
