"""What the pack holds, against plain lists of a user's items."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder
from ssl_pipeline.ingest.interactions import write as ingest
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing.interactions import item_features, write


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """30 users with 3 to 32 of 40 items each."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = [
        (f"u{u:02d}", f"i{i:02d}", t)
        for u in range(30)
        for t, i in enumerate(random.permutation(40)[: 3 + u])
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"]).sample(frac=1, random_state=0)
    table.to_csv(folder / "table.csv", index=False)
    (folder / "items.csv").write_text("item,title\ni00,First\n")
    source = InteractionsSource(
        path=str(folder / "table.csv"), items=str(folder / "items.csv"), title="title", k_core=1
    )
    ingest(source, folder / "tree")
    return folder / "tree"


def histories(tree):
    """{user: numbers of items in order}, numbers being places in the sorted list of items, from 1."""
    table = pd.concat(pd.read_parquet(tree / f"{s}-00000.parquet") for s in ("train", "validation", "test"))
    names = sorted(table["item"].unique())
    table = table.sort_values(["user", "timestamp"])
    return {user: [names.index(i) + 1 for i in part["item"]] for user, part in table.groupby("user")}


def padded(items, width):
    return [0] * (width - len(items[-width:])) + items[-width:]


@pytest.mark.parametrize("length", [2, 7, 50])
@pytest.mark.parametrize("causal", [True, False])
def test_samples_are_what_was_known_and_windows_ask_for_each_item_once(causal, length, tree, tmp_path):
    facts = write(tree, tmp_path, InteractionsEncoder(length=length, causal=causal))
    expected = histories(tree)
    for split, held in (("train", 3), ("validation", 2), ("test", 1)):
        items, target = np.load(tmp_path / f"{split}.items.npy"), np.load(tmp_path / f"{split}.target.npy")
        index = pd.read_parquet(tmp_path / f"{split}.parquet")
        assert items.dtype == target.dtype == np.int32 and index["sample_id"].tolist() == list(expected)
        assert items.tolist() == [padded(h[:-held], length) for h in expected.values()]
        assert target.tolist() == [h[-held] for h in expected.values()]
    width = length + causal
    rows = np.load(tmp_path / "train.training.items.npy")
    assert rows.shape[1] == width and (rows >= 0).all()
    asked = []
    for row in rows:
        assert (np.diff((row > 0).astype(int)) >= 0).all()  # padding is on the left
        known = [i for i in row.tolist() if i]
        assert any(known == h[at : at + len(known)] for h in expected.values() for at in range(len(h) - 2))
        asked += known[1:] if causal and len(known) > length else known[causal:]
    wanted = [i for h in expected.values() for i in h[causal:-2]]
    assert sorted(asked) == sorted(wanted)
    held = np.load(tmp_path / "validation.training.items.npy")
    assert held.tolist() == [
        [-i for i in row[:-1]] + row[-1:] for row in (padded(h[:-1], width) for h in expected.values())
    ]
    assert facts["items"] == 40 and facts["names"][:2] == ["First", "i01"] and len(facts["names"]) == 40
    vocabulary = pd.read_parquet(tmp_path / "vocabulary.parquet")
    assert vocabulary["number"].tolist() == list(range(1, 41)) and vocabulary["item"].is_monotonic_increasing
    user, item = (np.load(tmp_path / f"history.{name}.npy") for name in ("user", "item"))
    assert item.tolist() == [i for h in expected.values() for i in h]
    assert user.tolist() == [u for u, h in enumerate(expected.values()) for _ in h]
    assert (np.diff(np.load(tmp_path / "history.time.npy"))[np.diff(user) == 0] > 0).all()


def features_of(folder, items, embeddings):
    pd.DataFrame({"group": items, "embedding": embeddings}).to_parquet(folder / "features.parquet")
    return folder


def test_features_of_items_are_aligned_and_standardised(tree, tmp_path):
    values = np.random.default_rng(0).normal(3, 2, (40, 4)).astype(np.float32)
    names = [f"i{i:02d}" for i in range(40)]
    known = [i for i in range(39, -1, -1) if i != 34]
    twice = [*values[known].tolist(), *(values[known] + 1).tolist()]  # the mean of both counts
    write(tree, tmp_path, InteractionsEncoder())
    features = features_of(tmp_path, [names[i] for i in known] * 2 + ["unknown", None], [*twice, [9.0] * 4, [9.0] * 4])
    assert item_features(features, tmp_path) == {"dim": 4, "file": "item_features.npy"}
    found = np.load(tmp_path / "item_features.npy")
    others = np.delete(values, 34, axis=0)
    assert found.shape == (42, 4) and not found[[0, 35, 41]].any()
    np.testing.assert_allclose(found[[1, 40]], (values[[0, 39]] - others.mean(0)) / others.std(0), rtol=1e-4, atol=1e-6)


def test_features_of_other_items_are_refused(tree, tmp_path):
    write(tree, tmp_path, InteractionsEncoder())
    with pytest.raises(PipelineError, match="no sample's group is one of the 40 items: let `group`"):
        item_features(features_of(tmp_path, ["other"], [[1.0]]), tmp_path)


def test_a_tree_without_shards_is_refused(tree, tmp_path):
    (tmp_path / "items.parquet").write_bytes((tree / "items.parquet").read_bytes())
    with pytest.raises(PipelineError, match="holds no train shards"):
        write(tmp_path, tmp_path, InteractionsEncoder())
