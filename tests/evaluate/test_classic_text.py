"""Counted words as the baseline of text."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from ssl_pipeline.evaluate.classic_text import PENALTIES, sparse_probe, tfidf_features
from ssl_pipeline.evaluate.classics import texts
from ssl_pipeline.evaluate.classification import labels_of
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack


def test_weights_are_those_of_the_formula():
    train = ["A fox, a dog", "the fox ran", "the Dog ran", "a hen"]
    x = tfidf_features({"train": train, "test": ["fox fox dog unseen", "nothing here"]})
    # words and pairs in two texts or more: a, dog, fox, ran, the
    assert x["train"].shape == (4, 5) and x["test"].shape == (2, 5)
    inverse = math.log(5 / 3) + 1
    fox, dog = (1 + math.log(2)) * inverse, inverse
    length = math.hypot(fox, dog)
    assert sorted(x["test"].toarray()[0])[-2:] == pytest.approx([dog / length, fox / length], rel=1e-6)
    assert x["test"][1].nnz == 0
    np.testing.assert_allclose(np.asarray(x["train"].multiply(x["train"]).sum(1)).ravel(), 1, rtol=1e-5)


def test_texts_without_a_common_word_are_counted_by_characters():
    x = tfidf_features({"train": ["abc", "cde"], "test": ["c", ""]})
    assert x["train"].shape[1] == 9 and x["test"].nnz == 1  # five letters and four pairs


def test_the_penalty_is_chosen_on_validation():
    random = np.random.default_rng(0)
    x = {split: random.normal(size=(60, 30)) for split in ("train", "validation", "test")}
    y = {split: (rows[:, 0] + random.normal(size=60) > 0).astype(str) for split, rows in x.items()}
    models = [LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(x["train"], y["train"]) for c in PENALTIES]
    best = max(models, key=lambda model: model.score(x["validation"], y["validation"]))
    found = sparse_probe(x["train"], y["train"], x["validation"], y["validation"], x["test"])
    assert (found == best.predict(x["test"])).all()
    assert len({tuple(model.predict(x["test"])) for model in models}) > 1


@pytest.fixture
def newsgroups(tmp_path):
    """A pack of 200 real posts of two groups."""
    from ssl_pipeline.ingest import demo_text

    try:
        items = list(demo_text.items("newsgroups"))
    except PipelineError as missing:
        pytest.skip(str(missing))
    order = np.random.default_rng(0).permutation(200)
    for split, part in {"train": order[:100], "validation": order[100:140], "test": order[140:]}.items():
        chosen = [items[i] for i in part]
        pq.write_table(
            pa.table({"text": [item.load().decode() for item in chosen]}), tmp_path / f"{split}.text.parquet"
        )
        index = pd.DataFrame({"sample_id": part, "label": [item.label for item in chosen]})
        index.to_parquet(tmp_path / f"{split}.parquet")
    return Pack(tmp_path, {})


def test_rows_of_every_shot_count_on_real_posts(newsgroups):
    labels = labels_of(newsgroups)
    rows = pd.DataFrame(texts(None, newsgroups, labels, Classification(shots=(5, "all"), draws=3)))
    assert rows["shots"].tolist() == ["5", "5", "5", "all"] and rows["draw"].tolist() == [0, 1, 2, 0]
    assert set(rows["method"]) == {"TF-IDF"} and set(rows["probe"]) == {"linear"}
    assert rows["accuracy"].iloc[-1] > 0.85 and rows["accuracy"].iloc[:3].mean() > 0.55
    again = pd.DataFrame(texts(None, newsgroups, labels, Classification(shots=(5, "all"), draws=3)))
    pd.testing.assert_frame_equal(rows, again)
