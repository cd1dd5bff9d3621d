"""The two-sample test: as many false alarms as its p-value says, and few misses."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ssl_pipeline.features.drift import two_sample


def drawn(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 16)).astype(np.float32)


def test_false_alarms_are_as_rare_as_p_says() -> None:
    p = np.array([two_sample(drawn(i, 300), drawn(1000 + i, 80)).p_value for i in range(150)])
    for level in (0.05, 0.2):  # discrete, so at most: within what 150 tries allow
        assert stats.binomtest(int((p < level).sum()), len(p), level, alternative="greater").pvalue > 0.01
    assert (p < 0.5).sum() > 30  # and not asleep


def test_a_shift_is_found_and_the_samples_that_moved_come_first() -> None:
    new = np.concatenate([drawn(1, 60), drawn(2, 60, 1.0)])  # half of them moved
    found = two_sample(drawn(3, 400), new)
    assert found.p_value < 1e-3 and found.accuracy > 0.65
    most = found.new[np.argsort(-found.new_scores)[:15]]
    assert (most >= 60).mean() > 0.85
    assert found.p_value == two_sample(drawn(3, 400), new).p_value


def test_p_is_the_binomial_tail_of_what_was_not_fitted_on() -> None:
    found = two_sample(drawn(4, 50), drawn(5, 30, 0.5))
    assert len(found.old) == len(found.new) == 15
    right = (found.old_scores < 0.5).sum() + (found.new_scores >= 0.5).sum()
    assert np.isclose(found.p_value, sum(stats.binom.pmf(k, 30, 0.5) for k in range(right, 31)))
