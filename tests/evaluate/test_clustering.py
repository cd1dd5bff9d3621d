from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import average_precision_score

from ssl_pipeline.encoders.settings_audio import AudioEncoder
from ssl_pipeline.evaluate import clustering
from ssl_pipeline.evaluate.classics import raw_pixels
from ssl_pipeline.evaluate.clustering import (
    at_chance,
    cell,
    kmeans,
    labelled,
    matched_accuracy,
    measured,
    neighbours,
    projected,
    raw_input,
)
from ssl_pipeline.evaluate.settings_clustering import Clustering
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack


@pytest.fixture
def settings():
    return Clustering(test_samples=300, seeds=3, random_encoders=2)


def test_neighbours_by_hand():
    """On a circle at 0, 10, 30, 70 and 100 degrees, of classes a, b, a, b, c; lengths do not matter."""
    angle = np.radians([0, 10, 30, 70, 100])
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * [[1], [2], [3], [4], [5]]
    precision, average = neighbours(points, np.array(list("ababc")))
    # from 0: b a b c; from 10: a a b c; from 30: b a b c; from 70: c a b a; the c has nobody to find
    assert precision.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(average, [1 / 2, 1 / 3, 1 / 2, 1 / 3])


def test_neighbours_against_a_loop_dense_and_sparse():
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(60, 5)), rng.choice(["a", "b", "c"], 60)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    first, average = [], []
    for i in range(60):
        others = np.delete(np.arange(60), i)
        similarity, right = unit[others] @ unit[i], classes[others] == classes[i]
        first.append(right[similarity.argmax()])
        ranked = right[np.argsort(-similarity)]
        average.append(np.mean([ranked[: k + 1].mean() for k in np.flatnonzero(ranked)]))
    for form in (x, sparse.csr_matrix(x)):
        found = neighbours(form, classes)
        assert found[0].tolist() == first
        np.testing.assert_allclose(found[1], average)


def test_features_that_are_all_alike_find_nothing():
    classes = np.repeat(["a", "b", "c", "d"], 25)
    found = measured([np.ones((100, 4))], classes, Clustering(seeds=2))
    assert found["clustering/neighbours/precision_at_1/all"]["mean"] == pytest.approx(24 / 99)
    assert found["clustering/neighbours/map/all"]["mean"] == pytest.approx(24 / 99)
    assert found["clustering/kmeans/nmi/all"]["mean"] == pytest.approx(0, abs=1e-9)
    assert found["clustering/kmeans/matched_accuracy/all"]["mean"] == 0.25


def test_chance_is_what_random_order_gives():
    rng = np.random.default_rng(0)
    classes = rng.choice(["a", "b", "c"], 40, p=[0.6, 0.3, 0.1])
    chance = at_chance(classes)
    tried = [neighbours(rng.normal(size=(40, 400)), classes) for _ in range(50)]
    for name, column in (("precision_at_1", 0), ("map", 1)):
        means = [one[column].mean() for one in tried]
        off = abs(np.mean(means) - chance[f"clustering/neighbours/{name}/all"]["mean"])
        assert off < 4 * np.std(means) / np.sqrt(50)
    assert abs(chance["clustering/kmeans/ari/all"]["mean"]) < 0.05


def test_clusters_are_matched_as_well_as_they_can_be():
    rng = np.random.default_rng(0)
    for _ in range(20):
        classes, clusters = rng.choice(list("abcd"), 30), rng.integers(4, size=30)
        tries = [
            np.mean([dict(zip(range(4), order, strict=True))[c] == y for c, y in zip(clusters, classes, strict=True)])
            for order in permutations("abcd")
        ]
        assert matched_accuracy(classes, clusters) == pytest.approx(max(tries))
    assert matched_accuracy(np.array(list("aabb")), np.array([7, 7, 3, 3])) == 1


def test_the_measures_on_digits(digits_pack, settings):
    rows, classes = labelled(digits_pack, settings)
    raw = raw_pixels(digits_pack)["test"][rows]
    found = {name: value["mean"] for name, value in measured([raw], classes, settings).items()}
    assert list(found) == settings.metrics()
    assert found["clustering/neighbours/precision_at_1/all"] > 0.9
    assert 0.5 < found["clustering/neighbours/map/all"] < 0.8
    assert 0.6 < found["clustering/kmeans/nmi/all"] < 0.9
    assert 0.5 < found["clustering/kmeans/ari/all"] < found["clustering/kmeans/matched_accuracy/all"] < 0.95
    assert measured([raw], classes, settings) == measured([raw], classes, settings)

    shuffled = np.random.default_rng(0).permutation(classes)
    chance = at_chance(classes)
    for name, value in measured([raw], shuffled, settings).items():
        assert value["mean"] == pytest.approx(chance[name]["mean"], abs=0.05), name


def test_one_hot_classes_are_perfect():
    classes = np.repeat(["a", "b", "c"], 20)
    x = np.eye(3)[np.repeat(range(3), 20)] + np.random.default_rng(0).normal(0, 1e-3, (60, 3))
    best = measured([x, x], classes, Clustering(seeds=20))
    assert best["clustering/neighbours/map/all"]["mean"] == 1
    partitions = [kmeans(x, classes, seed) for seed in range(20)]
    assert max(matched_accuracy(classes, one) for one in partitions) == 1


def test_cells_add_both_sources_of_chance():
    assert cell(np.array([0.5]), 0.1) == pytest.approx({"mean": 0.5, "low": 0.304, "high": 0.696})
    both = cell(np.array([0.4, 0.5, 0.6]), 0.1)
    t = 4.302653 * 0.1 / np.sqrt(3)  # Student's t with two degrees of freedom
    assert both["high"] - both["mean"] == pytest.approx(np.hypot(t, 0.196), rel=1e-5)


def test_own_and_baselines(digits_pack, make_recipe, settings):
    recipe = make_recipe("rotation", evaluations=[{"kind": "clustering"}], promote=None)
    features = raw_pixels(digits_pack)
    result = clustering.own(recipe, digits_pack, None, features, digits_pack.path, settings)
    assert result.facts == {"classes": list("0123456789"), "test_samples": 300}
    told = []
    others = clustering.baselines(recipe, digits_pack, settings, told.append)
    assert list(others) == ["random encoder", "raw pixels", "chance"] and len(told) == 2
    assert all(list(metrics) == settings.metrics() for metrics in others.values())
    name = settings.leading()
    assert others["raw pixels"][name] == result.metrics[name]
    assert others["chance"][name]["mean"] < others["random encoder"][name]["mean"] < others["raw pixels"][name]["mean"]
    assert "300 test samples of 10 classes" in settings.caption(result.facts)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("audio", "MFCC"),
        ("text", "TF-IDF"),
        ("series", "raw values"),
        ("video", "raw pixels"),
        ("image_text", "raw pixels"),
    ],
)
def test_the_raw_input_of_every_modality_tells_what_is_plain(kind, name, tmp_path):
    """Two classes that anyone would hear, read or see: low and high tones, two vocabularies, red and green."""
    rng, high = np.random.default_rng(0), np.arange(40) % 2
    tone = np.sin(np.arange(8000) / 8000 * 2 * np.pi * (300 + 1700 * high[:, None]))
    shade = 200 * np.eye(3)[high][:, :, None, None] + rng.integers(0, 20, (40, 3, 16, 16))  # red or green
    stored = {
        "audio": {"audio": (8000 * tone + rng.normal(0, 300, tone.shape)).astype(np.int16)},
        "text": {},
        "series": {"values": (np.eye(2)[high][:, :, None] + rng.normal(0, 0.2, (40, 2, 30))).astype(np.float32)},
        "video": {"clip": np.repeat(shade[:, None], 4, 1).astype(np.uint8)},
        "image_text": {"image": shade.astype(np.uint8)},
    }[kind]
    words = [["apple pear plum", "bolt nut screw"][h] for h in high]
    for split in ("train", "test"):
        for array, values in stored.items():
            np.save(tmp_path / f"{split}.{array}.npy", values)
        pd.DataFrame({"text": [" ".join(rng.permutation(w.split())) for w in words]}).to_parquet(
            tmp_path / f"{split}.text.parquet"
        )
    recipe = SimpleNamespace(encoder=AudioEncoder() if kind == "audio" else SimpleNamespace(kind=kind))
    said, raw = raw_input(recipe, Pack(tmp_path, {}))
    assert said == name and raw.shape[0] == 40
    assert neighbours(raw, high.astype(str))[0].mean() > 0.95


def test_the_picture_is_the_same_each_time():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 8)) + 5 * np.eye(8)[np.arange(80) // 40]
    points = projected(x)
    assert np.array_equal(points, projected(x))
    near = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(80, np.inf))
    assert ((near.argmin(1) < 40) == (np.arange(80) < 40)).all()
    assert projected(rng.normal(size=(4, 3))).shape == (4, 2)


def test_nothing_to_find_is_said(digits_pack, tmp_path, settings):
    for labels, words in (([None] * 4, "0 labelled"), (["a"] * 4, "1 classes"), (list("abcd"), "two samples of")):
        digits_pack.index("test").head(4).assign(label=labels).to_parquet(tmp_path / "test.parquet")
        with pytest.raises(PipelineError, match=words):
            labelled(Pack(tmp_path, {}), settings)


def test_average_precision_counts_ties_as_scikit_learn_does():
    """Two that are as near, one of them right: precision a half at the one threshold."""
    x = np.array([[1, 0], [1, 1], [1, 1], [-1, 0]])
    precision, average = neighbours(x, np.array(list("aabb")))
    assert precision[0] == 0.5
    assert average[0] == average_precision_score([1, 0, 0], [0.7, 0.7, -1])


def test_features_that_are_all_alike_have_a_picture():
    for alike in (np.ones((10, 8)), np.zeros((10, 8))):
        assert np.isfinite(projected(alike.astype(np.float32))).all()
