from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_pipeline.evaluate.baselines import all_baselines
from ssl_pipeline.evaluate.classics import raw_pixels
from ssl_pipeline.evaluate.classification import (
    PENALTIES,
    interval,
    knn,
    labels_of,
    linear_probe,
    probe_methods,
    summarize,
)
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.report.tables import comparison, rows_of


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
    tenth = labels.subset("10%", 1)
    counts, all_counts = (
        np.unique(labels.classes["train"][rows], return_counts=True)[1] for rows in (tenth, slice(None))
    )
    assert np.array_equal(counts, np.round(0.1 * all_counts)) and set(labels.subset(5, 1)) < set(tenth)
    assert len(labels.subset("0.01%", 1)) == 10  # one a class at least


def test_shuffled_labels_give_chance(digits_pack, settings):
    labels = labels_of(digits_pack)
    rng = np.random.default_rng(0)
    for split in labels.classes:
        rng.shuffle(labels.classes[split])
    rows, _ = probe_methods("x", [raw_pixels(digits_pack)], labels, settings)
    mean = pd.DataFrame(rows)[["accuracy", "macro_f1", "auc"]].mean()
    assert mean["accuracy"] < 0.16 and mean["macro_f1"] < 0.16 and 0.45 < mean["auc"] < 0.55


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
    told = [linear_probe(train, y, test[i : i + 250], rng.integers(0, 2, 250)) for i in (0, 250)]
    scores = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3)
        scores.append(make_pipeline(StandardScaler(), model).fit(train, y).score(train[:30], y[:30]))
    chosen = linear_probe(train, y, train[:30], y[:30])["classify"].C
    assert chosen == PENALTIES[int(np.argmax(scores))] != min(PENALTIES)
    assert all(one["standardize"].n_samples_seen_ == 60 for one in told)  # validation decides the penalty alone


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
    summary = summarize(pd.DataFrame(rows), 397)
    assert set(settings.metrics()) <= set(summary["random encoder"])  # what may promote can be compared
    calibration = {name for name in summary["raw pixels"] if "/ece" in name or "/nll" in name}
    assert calibration == {f"classification/linear/{m}/all" for m in ("ece", "ece_scaled", "nll", "nll_scaled")}
    for name, cell in summary["raw pixels"].items():
        assert 0 <= cell["low"] < cell["mean"] < cell["high"], name
    assert len(told) == 2 + 2 * 3


def test_what_a_recipe_may_say_of_shots():
    said = Classification(shots=(10, "1%", "100%"))
    assert said.shots == (10, "1%", "all") and said.draws == 5
    assert said.leading() == "classification/linear/accuracy/all"
    assert Classification(shots=(10, "1%")).leading() == "classification/linear/accuracy/1pct", (
        "no sign that MLflow refuses"
    )
    for shots, words in (
        ((0,), "greater"),
        (("0.0%",), "no label at all"),
        (("101%",), "pattern"),
        (("all", "100%"), "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            Classification(shots=shots)


def test_tables_show_accuracy_alone_and_shares_as_shares():
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6}
    names = [f"classification/linear/{m}/{s}" for m in ("accuracy", "macro_f1", "nll") for s in ("10", "1pct", "all")]
    table = comparison(rows_of("r", "t", dict.fromkeys(names, cell)))
    assert table.columns == [("linear", "10"), ("linear", "1%"), ("linear", "all")]
