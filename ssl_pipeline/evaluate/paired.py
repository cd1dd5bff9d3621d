"""Is one method better than another on the same test samples? What both find hard cancels out, so that the difference is known far
better than the two intervals suggest.

    difference   mean over samples, with the 95% percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13)
    p            of a permutation test: each sample's two scores are swapped at random (Fisher 1935, section 21), corrected for the
                 number of comparisons as Holm 1979 does
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from ssl_pipeline.evaluate.result import Metrics

RESAMPLES = 9999
BATCH = 256
"""Resamplings that are held at a time."""
FILE = "scores.parquet"

Scores = dict[tuple[str, str], np.ndarray]
"""(method, metric) -> a score for each test sample, higher is better, in one order for all methods."""


@dataclass(frozen=True)
class Paired:
    """Of two methods' mean scores."""

    difference: float
    low: float
    high: float
    p: float


def compare(ours: np.ndarray, theirs: np.ndarray) -> Paired:
    """Scores `[n]` of the same samples."""
    apart = np.asarray(ours, float) - np.asarray(theirs, float)
    if not apart.any():
        return Paired(0.0, 0.0, 0.0, 1.0)
    options = {"n_resamples": RESAMPLES, "batch": BATCH, "rng": np.random.default_rng(0)}
    swapped = stats.permutation_test((apart,), np.mean, permutation_type="samples", vectorized=True, **options)
    options["rng"] = np.random.default_rng(0)
    interval = stats.bootstrap((apart,), np.mean, method="percentile", **options).confidence_interval
    return Paired(float(apart.mean()), float(interval.low), float(interval.high), float(swapped.pvalue))


def corrected(found: list[Paired]) -> list[Paired]:
    """With p values as if each were the only one that was asked for."""
    order = np.argsort([one.p for one in found])
    adjusted = np.maximum.accumulate([min(1.0, (len(found) - i) * found[at].p) for i, at in enumerate(order)])
    answer = list(found)
    for at, p in zip(order, adjusted, strict=True):
        answer[at] = replace(found[at], p=float(p))
    return answer


def write(folder: Path, methods: dict[str, Metrics]) -> dict[str, Metrics]:
    """Keeps the cells' `scores` in `scores.parquet` (method, metric, scores); returns the metrics without them."""
    rows = [
        {"method": method, "metric": metric, "scores": np.asarray(cell["scores"], np.float32)}
        for method, metrics in methods.items()
        for metric, cell in metrics.items()
        if "scores" in cell
    ]
    schema = pa.schema([("method", pa.string()), ("metric", pa.string()), ("scores", pa.list_(pa.float32()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / FILE, compression="zstd")
    return {
        method: {metric: {k: v for k, v in cell.items() if k != "scores"} for metric, cell in metrics.items()}
        for method, metrics in methods.items()
    }


def read(folder: Path) -> Scores:
    rows = pq.read_table(folder / FILE).to_pylist()
    return {(row["method"], row["metric"]): np.array(row["scores"]) for row in rows}
