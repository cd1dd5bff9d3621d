from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ssl_pipeline.evaluate import clustering, recall
from ssl_pipeline.evaluate.recall import Recall, hits
from ssl_pipeline.evaluate.settings_clustering import Clustering
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

DEPTHS = (1, 5, 10, 20, 50)


def test_hits_against_a_loop_dense_and_sparse(monkeypatch):
    monkeypatch.setattr(recall, "BATCH", 7)
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(80, 6)), rng.normal(size=(30, 6))
    known, asked = rng.choice(list("abcdefgh"), 80), rng.choice(list("abcdefgh"), 30)
    expected = []
    for query, right in zip(test, asked, strict=True):
        cosine = [one @ query / np.linalg.norm(one) / np.linalg.norm(query) for one in train]
        nearest = sorted(range(80), key=lambda i: -cosine[i])
        expected.append([right in {known[i] for i in nearest[:k]} for k in DEPTHS])
    for form in (np.asarray, sparse.csr_matrix):
        np.testing.assert_array_equal(hits(form(train), known, form(test), asked, DEPTHS), expected)


def test_ties_count_as_if_they_came_in_random_order():
    """One is nearest and wrong, of five that are as near as each other two are right, two are farther."""
    train = np.array([[1, 0]] + 5 * [[1, 1]] + 2 * [[0, 1]], float)
    known = np.array(list("b" + "aabcd" + "aa"))
    found = hits(train, known, np.array([[1.0, 0.0]]), np.array(["a"]), (1, 2, 3, 5, 6, 8))
    orders = list(permutations("aabcd"))
    expected = [0, *(np.mean(["a" in order[:k] for order in orders]) for k in (1, 2, 4)), 1, 1]
    np.testing.assert_allclose(found[0], expected)


def task(known, asked, depths=DEPTHS):
    return Recall(np.arange(len(known)), known, asked, depths)


def test_random_features_are_at_chance():
    rng = np.random.default_rng(0)
    known, asked = rng.choice(list("abcde"), 100, p=[0.5, 0.3, 0.1, 0.05, 0.05]), rng.choice(list("abcde"), 40)
    chance = task(known, asked).at_chance()
    tried = [
        task(known, asked).measured([(rng.normal(size=(100, 300)), rng.normal(size=(40, 300)))]) for _ in range(60)
    ]
    assert list(chance) == [f"clustering/neighbours/recall_at_{k}/all" for k in DEPTHS]
    for name, cell in chance.items():
        means = [one[name]["mean"] for one in tried]
        assert abs(np.mean(means) - cell["mean"]) < 4 * np.std(means) / np.sqrt(60) + 0.002, name
    assert 0.15 < chance["clustering/neighbours/recall_at_1/all"]["mean"] < 0.25


def test_a_collapsed_encoder_is_exactly_at_chance():
    known, asked = np.array(list("aabbbccccc")), np.array(list("abcx"))
    looked = task(known, asked, (1, 3))
    found, chance = looked.measured([(np.ones((10, 4)), np.ones((4, 4)))]), looked.at_chance()
    assert {name: cell["mean"] for name, cell in found.items()} == pytest.approx(
        {n: c["mean"] for n, c in chance.items()}
    )
    assert chance["clustering/neighbours/recall_at_1/all"]["mean"] == pytest.approx((0.2 + 0.3 + 0.5 + 0) / 4)


def test_of_videos_by_default_and_of_others_where_it_is_asked_for(make_recipe):
    video = {"kind": "video", "image_size": 8}
    said = {"evaluations": [{"kind": "clustering"}], "promote": None}
    (settings,) = make_recipe("frame_order", encoder=video, **said).evaluations
    assert settings.recall_at == DEPTHS and "clustering/neighbours/recall_at_50/all" in settings.metrics()
    (settings,) = make_recipe("rotation", **said).evaluations
    assert settings.recall_at == () and settings.metrics() == Clustering().metrics()
    said["evaluations"] = [{"kind": "clustering", "recall_at": [5, 1, 5]}]
    assert make_recipe("rotation", **said).evaluations[0].recall_at == (1, 5)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Clustering(recall_at=(0,))


@pytest.fixture
def videos(tmp_path):
    """Clips that are red or green, some unlabelled ones of neither."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 12)):
        which = np.arange(count) % 2
        shade = 200 * np.eye(3)[which][:, None, :, None, None] + rng.integers(0, 20, (count, 4, 3, 8, 8))
        np.save(tmp_path / f"{split}.clip.npy", shade.astype(np.uint8))
        labels = np.array(["red", "green"], object)[which]
        labels[:4] = None if split == "train" else labels[:4]
        pd.DataFrame({"label": labels}).to_parquet(tmp_path / f"{split}.parquet")
    return Pack(tmp_path, {"channels": 3, "mean": [0.5] * 3, "std": [0.3] * 3})


def of_videos(make_recipe, **parts):
    options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    return make_recipe(
        "frame_order",
        encoder={"kind": "video", "image_size": 8, "frames": 8, "options": options},
        evaluations=[{"kind": "clustering", "random_encoders": 2, "seeds": 2}],
        pretrain={"compile": False},
        **parts,
    )


def test_own_and_baselines(videos, make_recipe):
    recipe = of_videos(make_recipe, promote=None)
    (settings,) = recipe.evaluations
    features = {split: np.eye(2)[np.arange(count) % 2] for split, count in (("train", 16), ("test", 12))}
    result = clustering.own(recipe, videos, None, features, videos.path, settings)
    measured = {
        name for name in settings.metrics() if not name.endswith(("_20/all", "_50/all"))
    }  # of 12 that are labelled
    assert set(result.metrics) == measured and result.facts["training_samples"] == 12
    assert result.metrics["clustering/neighbours/recall_at_1/all"]["mean"] == 1
    assert "among the k nearest of 12 training samples" in settings.caption(result.facts)
    others = clustering.baselines(recipe, videos, settings, lambda what: None)
    assert all(set(metrics) == measured for metrics in others.values())
    name = "clustering/neighbours/recall_at_1/all"
    assert others["raw pixels"][name]["mean"] == 1 and others["chance"][name]["mean"] == pytest.approx(0.5)
    assert others["random encoder"][name]["mean"] > 0.5


def test_what_is_left_out_cannot_promote(videos, make_recipe):
    recipe = of_videos(make_recipe, promote={"metric": "clustering/neighbours/recall_at_50/all", "minimum": 0})
    features = {"train": np.eye(16), "test": np.eye(12, 16)}
    with pytest.raises(PipelineError, match="recall_at_50/all: the training split has 12 labelled samples only"):
        clustering.own(recipe, videos, None, features, videos.path, recipe.evaluations[0])
