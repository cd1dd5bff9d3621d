"""Retrieval among the training samples: is one of a test sample's class among the k nearest to it?

Büchler, Brattoli, Ommer 2018, "Improving Spatiotemporal Self-Supervision by Deep Reinforcement Learning"; Xu et al. 2019,
"Self-Supervised Spatiotemporal Learning via Video Clip Order Prediction" (VCOP), section 4.3: clips of the test split query
those of the training split by cosine, and any right one among the k nearest is a hit. The usual protocol of videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse, stats
from sklearn.preprocessing import normalize

from ssl_pipeline.evaluate.classification import interval
from ssl_pipeline.evaluate.result import Metrics
from ssl_pipeline.pretext.pack import Pack

BATCH = 256
"""Queries whose similarities are held at a time."""


@dataclass(frozen=True)
class Recall:
    """What is looked for."""

    rows: np.ndarray
    """Of the training split, those that have a label."""
    known: np.ndarray
    """Their classes."""
    asked: np.ndarray
    """Classes of the queries."""
    depths: tuple[int, ...]
    """Each k that there are enough training samples for."""

    @classmethod
    def among(cls, pack: Pack, asked: np.ndarray, depths: Sequence[int]) -> Self:
        column = pack.index("train")["label"]
        rows = np.flatnonzero(column.notna())
        known = column.to_numpy(dtype=object)[rows].astype(str)
        return cls(rows, known, asked, tuple(k for k in depths if k <= len(rows)))

    def measured(self, sets: Sequence[tuple[Any, Any]]) -> Metrics:
        """Of features `[n, dim]` of the whole training split and of the queries; of several pairs (random encoders) the mean."""
        if not self.depths:
            return {}
        found = [hits(train[self.rows], self.known, test, self.asked, self.depths) for train, test in sets]
        return {
            metric: interval([one[:, at].mean() for one in found], len(self.asked))
            for at, metric in enumerate(self.metrics())
        }

    def at_chance(self) -> Metrics:
        """Of training samples in random order, in closed form."""
        right = (self.asked[:, None] == self.known).sum(1)
        means = [float(by_chance(len(self.known), right, k).mean()) for k in self.depths]
        return {
            metric: {"mean": mean, "low": mean, "high": mean}
            for metric, mean in zip(self.metrics(), means, strict=True)
        }

    def metrics(self) -> list[str]:
        return [f"clustering/neighbours/recall_at_{k}/all" for k in self.depths]


def hits(train: Any, known: np.ndarray, test: Any, asked: np.ndarray, depths: Sequence[int]) -> np.ndarray:
    """`[queries, depths]`: 1 where one of the k nearest is right, 0 where none is; where several are as near as the last of
    them, the probability that one is, had they come in random order.

    `train` and `test` are features `[n, dim]`, dense or sparse, of the classes `known` and `asked`.
    """
    train, test, found = normalize(train), normalize(test), []
    for at in range(0, len(asked), BATCH):
        product = test[at : at + BATCH] @ train.T
        similarity = np.round(product.toarray() if sparse.issparse(product) else product, 6)  # as in `neighbours`
        right, ranked = asked[at : at + BATCH, None] == known, np.sort(similarity, axis=1)
        by_depth = []
        for k in depths:
            last = ranked[:, -k, None]
            nearer, tied = similarity > last, similarity == last
            one_tied = by_chance(tied.sum(1), (tied & right).sum(1), k - nearer.sum(1))
            by_depth.append(np.where((nearer & right).any(1), 1.0, one_tied))
        found.append(np.stack(by_depth, 1))
    return np.concatenate(found)


def by_chance(samples: Any, right: Any, drawn: Any) -> Any:
    """The probability that one of `right` is among the `drawn` ones of so many samples (hypergeometric)."""
    return 1 - stats.hypergeom.pmf(0, samples, right, drawn)
