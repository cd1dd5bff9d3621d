"""What the gates say, and when they close."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from ssl_pipeline.gates import better_than_random, not_collapsed, nothing_leaked


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


@pytest.mark.parametrize(
    ("rank", "loss", "passed", "words"),
    [
        (13.1, 2.7, True, "loss 2.700 against 2.833 when nothing is learnt"),
        (13.1, 2.9, False, "when nothing is learnt; 6 steps are few: more epochs, or a smaller batch_size"),
        (1.1, 2.7, False, "all samples look alike to it: try a lower learning_rate, or another task"),
    ],
)
def test_what_has_learnt_nothing_is_told_from_what_collapsed(rank, loss, passed, words):
    summary = {"effective_rank": rank, "final_loss": loss, "collapse_loss": 2.833, "steps": 6}
    gate = not_collapsed(SimpleNamespace(summary=summary))
    assert gate.passed is passed and gate.detail.endswith(words)


@pytest.mark.parametrize(
    ("mean", "low", "passed", "words"),
    [
        (0.9, 0.85, True, "0.900 [0.850, 0.950], random encoder 0.700 [0.650, 0.750]"),
        (0.75, 0.7, True, "random encoder 0.700 [0.650, 0.750]; the intervals touch: that it is better is not shown"),
        (
            0.6,
            0.55,
            False,
            "; train longer, try another task, or register all the same with promote: null in the recipe",
        ),
    ],
)
def test_better_than_random_says_how_sure_it_is(make_recipe, mean, low, passed, words):
    recipe = make_recipe()
    cells = {"mean": mean, "low": low, "high": mean + 0.05}, {"mean": 0.7, "low": 0.65, "high": 0.75}
    own, random = ({recipe.promote.metric: cell} for cell in cells)
    gate = better_than_random(
        recipe, SimpleNamespace(summary={"metrics": own, "baselines": {"random encoder": random}})
    )
    assert gate.passed is passed and gate.detail.endswith(words)
