"""Several labels a sample, on digits that are even, small, round; and against scikit-learn's own means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import average_precision_score, roc_auc_score

from ssl_pipeline.evaluate.classics import raw_pixels
from ssl_pipeline.evaluate.multi_label import asked, at_chance, baselines, own, probed, summarize, tags_of
from ssl_pipeline.evaluate.settings_multi_label import MultiLabel
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

SETTINGS = MultiLabel(shots=("20%", "all"), supervised_steps=40)
MAP, AUC = "multi_label/linear/map/all", "multi_label/linear/auc/all"


def tagged(digit: str) -> str:
    properties = {"even": int(digit) % 2 == 0, "small": int(digit) < 5, "round": digit in "0689"}
    return "|".join([name for name, holds in properties.items() if holds] + ["digit"])


def pack_of(digits_pack, folder, change=tagged):
    for split in SPLITS:
        (folder / f"{split}.image.npy").symlink_to(digits_pack.path / f"{split}.image.npy")
        index = digits_pack.index(split)
        index["label"] = index["label"].map(change)
        index.to_parquet(folder / f"{split}.parquet")
    return Pack(folder, digits_pack.facts)


@pytest.fixture
def pack(digits_pack, tmp_path):
    return pack_of(digits_pack, tmp_path)


def test_pixels_tell_properties_of_digits_and_shuffled_labels_are_at_chance(pack, tmp_path, make_recipe):
    pixels, recipe = raw_pixels(pack), make_recipe()
    found = own(recipe, pack, None, pixels, Path(), SETTINGS)
    assert list(found.metrics) and set(SETTINGS.metrics()) == set(found.metrics)
    assert found.facts == {"classes": ["digit", "even", "round", "small"], "test_samples": 397}
    chance = at_chance(tags_of(pack, SETTINGS), SETTINGS)
    assert found.metrics[AUC]["mean"] > 0.9 and found.metrics[MAP]["low"] > chance[MAP]["mean"] + 0.2
    shuffled = {split: np.random.default_rng(0).permutation(x) for split, x in pixels.items()}
    lost = probed([shuffled], tags_of(pack, SETTINGS), SETTINGS)
    assert lost[AUC]["low"] < 0.5 < lost[AUC]["high"]
    assert lost[MAP]["mean"] == pytest.approx(chance[MAP]["mean"], abs=0.06)
    assert "4 labels" in SETTINGS.caption(found.facts)


def test_means_over_labels_are_scikit_learns(pack):
    tags = tags_of(pack, SETTINGS)
    hot = tags.hot("test")
    assert hot.tolist() == [["digit" in s, "even" in s, "round" in s, "small" in s] for s in tags.classes["test"]]
    scores = np.random.default_rng(0).random(hot.shape) + 0.3 * hot
    found = summarize([scores], tags, "all")
    told = asked(hot)
    assert told.tolist() == [False, True, True, True]  # every sample is a digit
    assert found[MAP]["mean"] == pytest.approx(average_precision_score(hot[:, told], scores[:, told], average="macro"))
    assert found[AUC]["mean"] == pytest.approx(roc_auc_score(hot[:, told], scores[:, told], average="macro"))
    assert found[AUC]["low"] < found[AUC]["mean"] < found[AUC]["high"]


def test_subsets_are_shares_and_the_same_for_every_method(pack):
    tags = tags_of(pack, SETTINGS)
    assert len(tags.subset("20%", 0)) == 240 and len(tags.subset("all", 0)) == 1200
    assert tags.subset("20%", 1).tolist() == tags_of(pack, SETTINGS).subset("20%", 1).tolist()
    assert set(tags.subset("20%", 0)) != set(tags.subset("20%", 1))


def test_baselines(pack, make_recipe):
    found = baselines(make_recipe(), pack, SETTINGS, lambda step: None)
    assert found["chance"][AUC]["mean"] == 0.5
    assert found["supervised"][AUC]["mean"] > 0.75 and found["random encoder"][AUC]["mean"] > 0.5
    assert all(set(metrics) == set(SETTINGS.metrics()) for metrics in found.values())


def test_what_cannot_be_measured_is_told(digits_pack, tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(PipelineError, match="no training sample has two labels with '|' between them"):
        tags_of(pack_of(digits_pack, tmp_path / "one", str), SETTINGS)
    (tmp_path / "same").mkdir()
    same = pack_of(digits_pack, tmp_path / "same", lambda digit: "a|b")
    train = same.index("train")
    train.loc[0, "label"] = "a"
    train.to_parquet(same.path / "train.parquet")
    with pytest.raises(PipelineError, match="no label tells test samples apart"):
        tags_of(same, SETTINGS)
    with pytest.raises(ValidationError, match="drawn by share: write 1% or all"):
        MultiLabel(shots=(10,))
