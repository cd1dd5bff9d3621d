"""Metrics against loops that follow their definitions, and their intervals against repeated sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from ssl_pipeline.evaluate.scores import (
    Answer,
    auc,
    ece,
    interval_of,
    macro_f1,
    nll,
    rare,
    scores,
    standard_error,
    temperature,
    tempered,
)

NAMES = ["a", "b", "c"]


def sample(n: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn from known probabilities, and the probabilities of a classifier that is `sharpness` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 1.5 + [0, -2, 1]
    truth = np.array([rng.choice(NAMES, p=p) for p in softmax(logits, axis=1)])
    return truth, softmax(sharpness * logits, axis=1)


def test_macro_f1_against_counts():
    truth, given = sample(300, 1)
    predicted = np.array(NAMES)[given.argmax(1)]
    f1 = []
    for name in NAMES:
        hit = sum(t == p == name for t, p in zip(truth, predicted, strict=True))
        precision, recall = hit / (predicted == name).sum(), hit / (truth == name).sum()
        f1.append(2 * precision * recall / (precision + recall))
    assert macro_f1(truth, predicted) == pytest.approx(np.mean(f1))
    kept = truth != "b"  # a class without samples has no F1, whatever is predicted
    twice_hit = [2 * ((truth == n) & (predicted == n))[kept].sum() for n in "ac"]
    total = [(truth == n)[kept].sum() + (predicted == n)[kept].sum() for n in "ac"]
    assert macro_f1(truth[kept], predicted[kept]) == pytest.approx(np.mean(np.divide(twice_hit, total)))


def test_auc_is_the_share_of_pairs_in_order():
    truth, given = sample(120, 1)
    given = given.round(2)  # some ties
    areas = []
    for i, name in enumerate(NAMES):
        wins = [
            (p > q) + 0.5 * (p == q) for p in given[truth == name, i] for q in given[truth != name, i]
        ]  # fmt: skip
        areas.append(np.mean(wins))
    assert auc(truth, given, NAMES) == pytest.approx(np.mean(areas))
    assert auc(truth, given[np.random.default_rng(0).permutation(120)], NAMES) == pytest.approx(0.5, abs=0.1)


def test_ece_against_bins():
    truth, given = sample(500, 2)
    sure, right = given.max(1), np.array(NAMES)[given.argmax(1)] == truth
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (sure >= low) & (sure < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert ece(truth, given, NAMES) == pytest.approx(expected, abs=1e-6)
    certain = np.eye(3)[np.searchsorted(NAMES, truth)]
    assert ece(truth, certain, NAMES) == pytest.approx(0, abs=1e-6)
    assert ece(truth, np.roll(certain, 1, axis=1), NAMES) == pytest.approx(1, abs=1e-6)


def test_nll_against_its_formula():
    truth, given = sample(200, 2)
    rows = np.searchsorted(NAMES, truth)
    assert nll(truth, given, NAMES) == pytest.approx(-np.mean(np.log(given[np.arange(200), rows])))
    uniform = np.full((200, 3), 1 / 3, np.float32)
    assert nll(truth, uniform, NAMES) == pytest.approx(math.log(3))
    unknown = np.append(truth, "zebra")  # of a class that was never learnt nothing can be said
    assert nll(unknown, np.vstack([uniform, uniform[:1]]), NAMES) == pytest.approx(math.log(3))


def test_temperature_undoes_what_was_too_sure():
    truth, given = sample(4000, 3)
    found = temperature(truth, given, NAMES)
    assert found == pytest.approx(3, rel=0.1)
    logits = np.log(given)
    around = [-log_softmax(logits / t, axis=1)[np.arange(4000), np.searchsorted(NAMES, truth)].mean()
              for t in (found * 0.98, found, found * 1.02)]  # fmt: skip
    assert around[1] == min(around)
    elsewhere, unseen = sample(4000, 3, seed=1)
    better = tempered(unseen, found)
    assert ece(elsewhere, better, NAMES) < 0.3 * ece(elsewhere, unseen, NAMES)
    assert nll(elsewhere, better, NAMES) < nll(elsewhere, unseen, NAMES)
    assert np.array_equal(better.argmax(1), unseen.argmax(1))


def test_standard_errors_are_those_of_new_test_splits():
    measures = {
        "f1": lambda t, g: macro_f1(t, np.array(NAMES)[g.argmax(1)]),
        "auc": lambda t, g: auc(t, g, NAMES),
        "nll": lambda t, g: nll(t, g, NAMES),
    }
    splits = [sample(300, 1, seed) for seed in range(60)]
    for name, measure in measures.items():
        true = np.std([measure(*split) for split in splits])
        told = np.mean(
            [standard_error(lambda rows, m=measure, s=split: m(s[0][rows], s[1][rows]), 300) for split in splits[:15]]
        )
        assert told == pytest.approx(true, rel=0.35), name


def test_what_is_measured_of_whom():
    truth, given = sample(400, 2)
    answer = Answer(np.array(NAMES)[given.argmax(1)], given)
    assert rare(truth) == ["b"]
    assert set(scores(truth, NAMES, Answer(answer.predicted), False, None)) == {"accuracy", "macro_f1"}
    full = scores(truth, NAMES, answer, True, sample(400, 2, seed=1))
    beside = {"macro_f1", "auc", "ece", "ece_scaled", "nll", "nll_scaled"}
    assert set(full) == {"accuracy"} | beside | {f"{name}_error" for name in beside}
    assert full["nll_scaled"] < full["nll"] and full["ece_scaled"] < full["ece"]
    balanced = np.repeat(NAMES, 20)
    assert not rare(balanced) and "auc" not in scores(balanced, NAMES, Answer(balanced, given[:60]), False, None)


def test_interval_keeps_to_the_range_of_its_metric():
    assert interval_of("macro_f1", [0.99], 0.1) == {
        "mean": 0.99,
        "low": pytest.approx(0.99 - 0.226, abs=1e-3),
        "high": 1.0,
    }
    cell = interval_of("nll_scaled", [1.0, 1.2, 1.1], 0.0)
    assert cell["high"] == pytest.approx(1.1 + 4.303 * 0.1 / math.sqrt(3), abs=1e-3)
