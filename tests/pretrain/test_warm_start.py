"""A warm start: new samples, old ones replayed, and a fresh encoder beside it on the same budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.pretrain import loop
from ssl_pipeline.pretrain.loop import Interrupted, pretrain, replayed
from ssl_pipeline.pretrain.plan import Plan

FRESH = np.arange(1000, 1200)
"""Of 1,200 rows."""


@pytest.fixture
def recipe(make_recipe):
    return make_recipe("rotation", pretrain={"epochs": 3, "batch_size": 50}, retrain={"warm_start": {"replay": 0.75}})


def test_an_epoch_is_all_that_is_new_and_a_share_of_old_drawn_anew(recipe) -> None:
    rows = replayed(recipe, 1200, FRESH)
    assert (rows.fresh, rows.length) == (200, 800)
    epochs = [set(rows.order(0, epoch).tolist()) for epoch in range(3)]
    for epoch in epochs:
        assert len(epoch) == 800 and set(FRESH.tolist()) < epoch
    assert epochs[0] != epochs[1]
    assert rows.order(0, 1).tolist() == rows.order(0, 1).tolist() != sorted(rows.order(0, 1).tolist())


def test_no_more_is_replayed_than_there_is_and_without_news_all_is_old(recipe, make_recipe) -> None:
    assert replayed(recipe, 250, np.arange(200)).length == 250
    for fresh in (None, np.arange(0), np.arange(250)):
        rows = replayed(recipe, 250, fresh)
        assert rows.length == 250 and sorted(rows.order(0, 0).tolist()) == list(range(250))
    nothing_old = make_recipe("rotation", retrain={"warm_start": {"replay": 0}})
    assert sorted(replayed(nothing_old, 1200, FRESH).order(0, 0).tolist()) == FRESH.tolist()


def test_training_goes_on_from_weights_with_what_is_new_resumes_and_counts_it(recipe, digits_pack, tmp_path) -> None:
    first = loop.pretrain(recipe, digits_pack, tmp_path / "first", lambda row: None)[0]
    (tmp_path / "champion").mkdir()
    encoders.save(first, recipe.encoder, digits_pack.facts, tmp_path / "champion")
    again = Plan(tmp_path / "champion", FRESH)

    def train(name: str, stop=lambda: False):
        folder = tmp_path / name
        return pretrain(recipe, digits_pack, folder, lambda row: None, stop, plan=again)

    whole, summary = train("whole")
    assert (summary["new_samples"], summary["replayed_samples"], summary["steps"]) == (200, 600, 3 * 16)
    polls = iter(range(1000))
    with pytest.raises(Interrupted):
        train("parts", lambda: next(polls) == 20)
    resumed, _ = train("parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("steps", [1, 24, 25, 60])
def test_a_budget_of_steps_is_kept_to_the_step(steps, make_recipe, digits_pack, tmp_path) -> None:
    rows: list[dict] = []
    recipe = make_recipe("rotation", pretrain={"epochs": 2, "batch_size": 50, "log_every": 1})
    _, summary = pretrain(recipe, digits_pack, tmp_path, rows.append, plan=Plan(steps=steps))
    trained = [row for row in rows if "loss" in row]
    assert summary["steps"] == steps == len(trained) == trained[-1]["step"] == trained[-1]["total_steps"]
    assert [row["epoch"] for row in rows if "validation/loss" in row] == list(range(1, -(-steps // 24) + 1))
