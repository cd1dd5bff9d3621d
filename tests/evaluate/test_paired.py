"""Paired tests against scipy's t-test and the exact enumeration of all swaps; what is kept of scores."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from ssl_pipeline.evaluate.paired import Paired, compare, corrected, read, write


def test_a_small_true_difference_is_seen_that_two_intervals_would_hide():
    random = np.random.default_rng(0)
    hard = random.normal(0, 1, 400)
    ours, theirs = hard + 0.05 + random.normal(0, 0.2, 400), hard + random.normal(0, 0.2, 400)
    found = compare(ours, theirs)
    expected = stats.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(low, abs=3e-3) and found.high == pytest.approx(high, abs=3e-3)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01) and found.p < 0.05
    assert stats.ttest_ind(ours, theirs).pvalue > 0.3
    assert compare(theirs, ours).difference == -found.difference


def test_p_is_the_share_of_all_swaps_that_differ_as_much():
    apart = np.array([0.3, 0.1, -0.2, 0.6, 0.5, 0.25, -0.1, 0.4])
    sums = [abs(sum(s * a for s, a in zip(signs, apart, strict=True))) for signs in product((-1, 1), repeat=8)]
    expected = np.mean(np.array(sums) >= abs(apart.sum()) - 1e-12)
    assert compare(apart, np.zeros(8)).p == pytest.approx(expected, abs=0.01)


def test_equal_methods_do_not_differ_and_the_level_is_kept():
    same = np.ones(20)
    assert compare(same, same) == Paired(0.0, 0.0, 0.0, 1.0)
    random = np.random.default_rng(0)
    found = [compare(*random.integers(0, 2, (2, 60))).p < 0.05 for _ in range(60)]
    assert sum(found) <= 8


def test_holms_correction():
    found = corrected([Paired(0, 0, 0, p) for p in (0.04, 0.01, 0.03, 0.5)])
    assert [one.p for one in found] == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert corrected([]) == []


def test_scores_are_kept_apart_from_the_summary(tmp_path):
    cell = {"mean": 0.5, "low": 0.0, "high": 1.0}
    methods = {
        "ours": {"a": cell | {"scores": np.array([0, 1])}, "b": cell},
        "theirs": {"a": cell | {"scores": [1, 0]}},
    }
    methods["odd"] = {"a": cell | {"scores": [np.nan, 1]}, "c": cell | {"scores": [1, 1]}}
    without = {"ours": {"a": cell, "b": cell}, "theirs": {"a": cell}, "odd": {"a": cell, "c": cell}}
    assert write(tmp_path, methods, ("a", "b")) == without
    kept = read(tmp_path)
    assert list(kept) == [("ours", "a"), ("theirs", "a")] and kept["ours", "a"].tolist() == [0, 1]
    assert write(tmp_path, {"none": {"b": cell}}, ("b",)) == {"none": {"b": cell}} and read(tmp_path) == {}
