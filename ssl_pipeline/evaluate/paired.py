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

from ssl_pipeline.evaluate.result import Metrics

RESAMPLES = 20_000
"""At least, of which no p is below one in so many."""
BATCH = 500
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
    """Finite scores `[n]` of the same samples. Scores are mostly few different numbers: how often each is drawn, and how often its
    sign is turned, is one draw, however many samples there are."""
    apart = (np.asarray(ours, float) - np.asarray(theirs, float)).round(9)
    n, chance = len(apart), np.random.default_rng(0)
    values, counts = np.unique(apart, return_counts=True)
    sizes, many = np.unique(np.abs(apart), return_counts=True)
    means, turned = [], []
    for _ in range(0, RESAMPLES, BATCH):
        means.append(chance.multinomial(n, counts / n, BATCH) @ values / n)
        turned.append((2 * chance.binomial(many, 0.5, (BATCH, len(many))) - many) @ sizes / n)
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    beyond = np.abs(np.concatenate(turned)) >= abs(apart.mean()) - 1e-12
    return Paired(float(apart.mean()), float(low), float(high), float((1 + beyond.sum()) / (1 + len(beyond))))


def corrected(found: list[Paired]) -> list[Paired]:
    """With p values as if each were the only one that was asked for."""
    order = np.argsort([one.p for one in found])
    adjusted = np.maximum.accumulate([min(1.0, (len(found) - i) * found[at].p) for i, at in enumerate(order)])
    answer = list(found)
    for at, p in zip(order, adjusted, strict=True):
        answer[at] = replace(found[at], p=float(p))
    return answer


def write(folder: Path, methods: dict[str, Metrics], metrics: tuple[str, ...] = ()) -> dict[str, Metrics]:
    """Keeps the `scores` of these metrics, or of all, in `scores.parquet` (method, metric, scores) where all are finite; returns
    all metrics without scores."""
    rows = [
        {"method": method, "metric": metric, "scores": scores}
        for method, found in methods.items()
        for metric, cell in found.items()
        if metric in (metrics or found)
        and np.isfinite(scores := np.asarray(cell.get("scores", np.nan), np.float32)).all()
    ]
    schema = pa.schema([("method", pa.string()), ("metric", pa.string()), ("scores", pa.list_(pa.float32()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / FILE, compression="zstd")
    return {
        method: {metric: {k: v for k, v in cell.items() if k != "scores"} for metric, cell in found.items()}
        for method, found in methods.items()
    }


def read(folder: Path) -> Scores:
    table = pq.read_table(folder / FILE)
    names = zip(table["method"].to_pylist(), table["metric"].to_pylist(), strict=True)
    return {name: scores.values.to_numpy() for name, scores in zip(names, table["scores"], strict=True)}
