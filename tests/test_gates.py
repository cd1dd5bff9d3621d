"""The gate that looks for leaks."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from ssl_pipeline.gates import nothing_leaked


def features_of(folder, **columns) -> SimpleNamespace:
    rows = {"sample_id": list("abcd"), "group": [None, "g", "g", None], "split": ["train", "train", "train", "test"]}
    pd.DataFrame(rows | columns).to_parquet(folder / "features.parquet")
    return SimpleNamespace(path=folder)


def test_splits_that_share_nothing_pass(tmp_path, make_recipe):
    gate = nothing_leaked(make_recipe(), features_of(tmp_path))
    assert gate.passed and gate.detail == "4 samples and 1 groups, each in one split"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sample_id": list("abca")}, "samples in more than one split: 1, such as 'a' in test, train"),
        ({"group": [None, "g", "h", "g"]}, "groups in more than one split: 1, such as 'g' in test, train"),
    ],
)
def test_a_training_sample_or_its_group_in_the_test_split_is_caught(tmp_path, make_recipe, columns, words):
    gate = nothing_leaked(make_recipe(), features_of(tmp_path, **columns))
    assert not gate.passed and words in gate.detail


def test_users_are_in_every_split_by_design(tmp_path, make_recipe):
    logs = make_recipe("next_item", encoder={"kind": "interactions"})
    assert nothing_leaked(logs, features_of(tmp_path, sample_id=list("aaaa"))).passed
