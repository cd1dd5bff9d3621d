from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ssl_pipeline.evaluate.baselines import all_baselines
from ssl_pipeline.evaluate.classics import raw_pixels
from ssl_pipeline.evaluate.classification import interval, knn, labels_of, linear_probe, probe_methods
from ssl_pipeline.evaluate.settings import Classification


@pytest.fixture
def settings():
    return Classification(
        shots=(5, "all"), draws=3, supervised_steps=60, supervised_views={"flip": False, "min_scale": 0.7}
    )


def test_knn_against_a_loop():
    rng = np.random.default_rng(0)
    train, y, test = rng.normal(size=(40, 6)), rng.choice(["a", "b", "c"], 40), rng.normal(size=(15, 6))
    settings = Classification(k=7, temperature=0.1)
    expected = []
    for query in test:
        cosine = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = dict.fromkeys("abc", 0.0)
        for i in np.argsort(-cosine)[:7]:
            votes[y[i]] += np.exp(cosine[i] / 0.1)
        expected.append(max(votes, key=votes.get))
    assert knn(train, y, test, settings).tolist() == expected


def test_subsets_are_the_same_for_everyone_and_balanced(digits_pack):
    labels = labels_of(digits_pack)
    chosen = labels.subset(5, 1)
    assert np.array_equal(chosen, labels_of(digits_pack).subset(5, 1))
    assert not np.array_equal(chosen, labels.subset(5, 2))
    assert set(np.unique(labels.classes["train"][chosen], return_counts=True)[1]) == {5}
    assert len(labels.subset("all", 0)) == 1200
    assert set(labels.subset(5, 1)) <= set(labels.subset(10, 1))  # few labels are a part of more


def test_shuffled_labels_give_chance(digits_pack, settings):
    labels = labels_of(digits_pack)
    rng = np.random.default_rng(0)
    for split in labels.classes:
        rng.shuffle(labels.classes[split])
    rows, _ = probe_methods("x", [raw_pixels(digits_pack)], labels, settings)
    accuracy = np.mean([row["accuracy"] for row in rows])
    assert accuracy < 0.16


def test_real_digits_are_read_off_raw_pixels(digits_pack, settings):
    rows, matrix = probe_methods("x", [raw_pixels(digits_pack)], labels_of(digits_pack), settings)
    best = {(row["probe"], row["shots"]): row["accuracy"] for row in rows}
    assert best["knn", "all"] > 0.95 and best["linear", "all"] > 0.9
    assert 0.6 < best["linear", "5"] < best["linear", "all"]
    assert matrix.sum() == 397 and matrix.trace() / 397 == pytest.approx(best["linear", "all"])
    assert sum(row["shots"] == "all" for row in rows) == 2  # nothing is drawn at all labels


def test_penalty_is_chosen_on_validation_not_on_test():
    rng = np.random.default_rng(0)
    train, y = rng.normal(size=(60, 30)), rng.integers(0, 2, 60)
    test = rng.normal(size=(500, 30))
    answers = [linear_probe(train, y, train[i : i + 30], y[i : i + 30], test) for i in (0, 30)]
    again = linear_probe(train, y, train[:30], y[:30], test[:250])
    assert np.array_equal(answers[0][:250], again)  # the rest of the test split decides nothing


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        test_effect = rng.normal(0, np.sqrt(0.8 * 0.2 / 500))
        draws = (0.8 + test_effect + rng.normal(0, 0.02, 3)).clip(0, 1)
        cell = interval(draws.tolist(), 500)
        covered += cell["low"] <= 0.8 <= cell["high"]
    assert 0.93 < covered / 2000 < 0.99
    z2 = stats.norm.ppf(0.975) ** 2  # Wilson's interval in closed form
    wilson = (0.9 + z2 / 200 + np.sqrt(z2 * (0.09 / 100 + z2 / 40000))) / (1 + z2 / 100)
    assert interval([0.9], 100)["high"] == pytest.approx(wilson, abs=1e-6)
    assert interval([1.0], 3)["low"] < 0.5, "three right answers prove little"


def test_baselines_on_real_digits(digits_pack, settings, make_recipe):
    told = []
    rows = all_baselines(make_recipe("rotation"), digits_pack, labels_of(digits_pack), settings, told.append)
    mean = {}
    for row in rows:
        mean.setdefault((row["method"], row["probe"], row["shots"]), []).append(row["accuracy"])
    mean = {key: np.mean(values) for key, values in mean.items()}
    assert mean["random encoder", "linear", "all"] > mean["random encoder", "linear", "5"] > 0.2
    assert mean["supervised", "supervised", "all"] > 0.3
    assert len(told) == 2 + 2 * 3
