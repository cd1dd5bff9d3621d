from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ssl_pipeline import gates, ingest
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.evaluate import fine_tuning
from ssl_pipeline.evaluate.baselines import Classifier, Job, Training, answered, fresh, train_on_labels
from ssl_pipeline.evaluate.classification import labels_of, probe_methods
from ssl_pipeline.evaluate.settings import Classification, FineTuning
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext import pack
from ssl_pipeline.recipe import load
from ssl_pipeline.store import Stage, Store
from tests.captioned_squares import pack_of, settings_of

MILD = {"flip": False, "min_scale": 0.7}
VIT = {"backbone": "test_vit", "image_size": 16, "options": {"patch_size": 4}}


@pytest.fixture(scope="module")
def settings():
    return FineTuning(shots=(5,), draws=3, steps=30, learning_rates=(1e-5, 2e-3), views=MILD)


@pytest.fixture
def pretrained(digits_pack, make_recipe):
    """A stand-in for what pretraining gives: an encoder that knows digits, without its head."""
    recipe, labels = make_recipe("simclr", pretrain={"precision": "fp32"}), labels_of(digits_pack)
    job = Job("all", 0, Training(80, Classification(supervised_views=MILD).supervised_views))
    return train_on_labels(recipe, digits_pack, labels, job, fresh(recipe, digits_pack, 10, 7))[0]


def test_what_was_pretrained_helps_and_is_left_as_it_was(digits_pack, make_recipe, settings, pretrained):
    recipe = make_recipe("simclr", pretrain={"precision": "fp32"})
    before = {name: value.clone() for name, value in pretrained.state_dict().items()}
    told: list[str] = []
    result = fine_tuning.own(recipe, digits_pack, pretrained, {}, Path(), settings)
    scratch = fine_tuning.baselines(recipe, digits_pack, settings, told.append)
    name = "fine_tuning/full/accuracy/5"
    assert result.metrics[name]["low"] > scratch["supervised"][name]["high"]
    random = fresh(recipe, digits_pack, 10, 0)[0]
    features = {split: embed(random, digits_pack.samples(split), recipe.pretrain) for split in SPLITS}
    rows, _ = probe_methods("random", [features], labels_of(digits_pack), Classification(shots=(5,), draws=3))
    of_random = pd.DataFrame(rows).groupby("probe")["accuracy"].mean()
    assert result.metrics[name]["mean"] > of_random.max() + 0.2
    assert all(torch.equal(value, before[name]) for name, value in pretrained.state_dict().items())
    assert set(settings.metrics()) <= set(result.metrics) and set(settings.metrics()) <= set(scratch["supervised"])
    assert result.facts["learning_rates"] == {"5": 2e-3}, "too small a rate was chosen"
    assert len(told) == 4 and result.facts["test_samples"] == 397 and settings.caption(result.facts)


def test_the_same_seed_gives_the_same_answers(digits_pack, make_recipe, pretrained):
    recipe, labels = make_recipe("simclr", pretrain={"precision": "fp32"}), labels_of(digits_pack)

    def answer(dropout: float) -> np.ndarray:
        head = nn.Sequential(nn.Dropout(dropout), fine_tuning.head(pretrained.dim, 10, 0))
        model = train_on_labels(recipe, digits_pack, labels, Job(5, 0, Training(3, None)), Classifier(pretrained, head))
        return answered(recipe, digits_pack, labels, model, "test").probabilities

    state = {name: value.clone() for name, value in pretrained.state_dict().items()}
    found = []
    for dropout in (0.5, 0.5, 0.0):
        pretrained.load_state_dict(state)
        torch.rand(3)  # somebody else draws, too
        found.append(answer(dropout))
    assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2], atol=1e-4)


def test_shuffled_labels_give_chance(digits_pack, make_recipe, settings, pretrained, monkeypatch):
    labels = labels_of(digits_pack)
    shuffled = {split: np.random.default_rng(0).permutation(given) for split, given in labels.classes.items()}
    monkeypatch.setattr(fine_tuning, "labels_of", lambda pack: replace(labels, classes=shuffled))
    result = fine_tuning.own(make_recipe("simclr"), digits_pack, pretrained, {}, Path(), settings)
    assert result.metrics["fine_tuning/full/accuracy/5"]["mean"] < 0.17


def rates(model: Classifier, layer_decay: float | None) -> dict[str, float]:
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.05, layer_decay=layer_decay)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        names[id(w)]: group.get("lr_scale", 1.0) for group in optimizer.param_groups for w in group["params"]
    }  # fmt: skip


def test_earlier_blocks_of_a_vit_have_smaller_rates(digits_pack, make_recipe):
    model = fresh(make_recipe("simclr", encoder=VIT), digits_pack, 10, 0)
    depth = len(model[0].blocks())
    found = rates(model, 0.5)
    assert len(found) == len(dict(model.named_parameters()))
    for name, rate in found.items():
        block = name.split(".blocks.")[1].split(".")[0] if ".blocks." in name else None
        first = any(part in name for part in ("patch_embed", "cls_token", "pos_embed", "norm_pre"))
        expected = 0.5 ** (depth - int(block)) if block else 0.5 ** (depth + 1) if first else 1.0
        assert rate == pytest.approx(expected), name
    assert set(rates(model, None).values()) == {1.0}


def test_rates_grow_towards_the_head_in_a_resnet_and_in_towers(digits_pack, make_recipe, tmp_path):
    resnet = rates(fresh(make_recipe("simclr"), digits_pack, 10, 0), 0.5)
    stages = [
        next(rate for name, rate in resnet.items() if part in name)
        for part in ("conv1.", *(f"layer{i}" for i in range(1, 5)), "1.weight")
    ]
    assert stages[0] == 0.5**5 and stages[1:5] == [0.5**4, 0.25 * 0.5, 0.25, 0.5] and resnet["1.weight"] == 1.0
    towers = build(settings_of(), pack_of(tmp_path).given)
    found = rates(Classifier(towers, nn.Linear(towers.dim, 4)), 0.5)
    image = [rate for name, rate in found.items() if "image_tower" in name]
    assert image == sorted(image) and image[0] < image[-1] < 1 and found["0.image_projection.weight"] == 1.0


def test_the_gate_compares_with_training_from_scratch(make_recipe):
    recipe = make_recipe("simclr", evaluations=[{"kind": "fine_tuning", "shots": [5, "100%"]}])
    assert recipe.promote.metric == "fine_tuning/full/accuracy/all"
    for ours, passed in ((0.8, True), (0.6, False)):
        cells = [{recipe.promote.metric: {"mean": mean, "low": mean, "high": mean}} for mean in (ours, 0.7)]
        summary = {"metrics": cells[0], "baselines": {"supervised": cells[1]}}
        assert gates.better_than_random(recipe, Stage("fine_tuning", "0" * 16, Path(), summary, False)).passed is passed


DEFS = Path(fine_tuning.__file__).parents[1] / "defs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["watch_simclr", "notes_simclr", "news_mlm"])
def test_series_sounds_and_texts_are_fine_tuned(name, tmp_path):
    loaded = [load(file) for file in sorted(DEFS.glob("*/defs.yaml"))]
    recipe = next(one for _, recipes in loaded for one in recipes if one.name == name)
    data = next(one for datasets, _ in loaded for one in datasets if one.name == recipe.dataset)
    store = Store(tmp_path / "store")
    stage = ingest.build(data, store, lambda tree: data.name, store.root, lambda line: None)
    built = pack.open_pack(pack.build(store, stage, recipe.encoder))
    settings = FineTuning(shots=(10,), steps=40, learning_rates=(1e-3,)).fitted(recipe.encoder)
    encoder = build(recipe.encoder, built.given)
    result = fine_tuning.own(recipe, built, encoder, {}, Path(), settings)
    classes = len(result.facts["classes"])
    assert result.metrics["fine_tuning/full/accuracy/10"]["mean"] > 1.15 / classes
