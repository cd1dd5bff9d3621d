"""Has new data moved away from the data that an encoder was trained on? A classifier two-sample test on embeddings.

    a logistic regression learns to tell half of the new samples from old ones; of the other half and as many old ones it names
    k of n right, and p = P(Binomial(n, 1/2) >= k): where both are of one distribution it can only guess
    (Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests", section 3)

Old samples are held-out ones: those that an encoder was trained on lie elsewhere for it than any it has not seen. Samples of one
group resemble each other, so that a new group alone can look like drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MOST = 5000
"""Samples of each kind that are looked at."""
OLD_FOR_EACH_NEW = 10
"""In the training half, at most."""


@dataclass(frozen=True)
class Test:
    """What the classifier made of samples that it was not fitted on."""

    p_value: float
    accuracy: float
    old: np.ndarray
    """Rows of the old samples that it was asked about."""
    new: np.ndarray
    old_scores: np.ndarray
    """How new it took them for: probabilities, in the order of `old`."""
    new_scores: np.ndarray


def two_sample(old: np.ndarray, new: np.ndarray, seed: int = 0) -> Test:
    """Features `[n, dim]` and `[m, dim]`, of at least two samples each. Deterministic."""
    chance = np.random.default_rng(seed)
    old_rows, new_rows = (chance.permutation(len(x))[:MOST] for x in (old, new))
    asked = min(len(new_rows), len(old_rows)) // 2
    learnt_old, learnt_new = old_rows[asked:][: OLD_FOR_EACH_NEW * (len(new_rows) - asked)], new_rows[asked:]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=300, tol=1e-3))
    model.fit(np.concatenate([old[learnt_old], new[learnt_new]]), np.repeat([0, 1], [len(learnt_old), len(learnt_new)]))
    old_rows, new_rows = old_rows[:asked], new_rows[:asked]
    old_scores, new_scores = (model.predict_proba(x)[:, 1] for x in (old[old_rows], new[new_rows]))
    right = int((old_scores < 0.5).sum() + (new_scores >= 0.5).sum())
    p = float(stats.binomtest(right, 2 * asked, alternative="greater").pvalue)
    return Test(p, right / (2 * asked), old_rows, new_rows, old_scores, new_scores)
