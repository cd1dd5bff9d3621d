"""Zero-shot classification on drawings whose captions name their colour, and on embeddings that are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score

from ssl_pipeline.encoders.image_text import build
from ssl_pipeline.evaluate.settings_zero_shot import ZeroShot
from ssl_pipeline.evaluate.zero_shot import at_chance, baselines, own, predicted, prompted, summarize, tested
from ssl_pipeline.features.extract import embed
from ssl_pipeline.pretext.clip import CLIP
from ssl_pipeline.recipe import Recipe
from tests.captioned_squares import SMALL, pack_of, settings_of

ACCURACY, CLASS_MEAN = ZeroShot().metrics()
SETTINGS = ZeroShot(prompts=("a {} square", "{}"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate({"name": "a", "dataset": "b", "encoder": SMALL, "pretext": {"task": "clip"}})


@pytest.fixture(scope="module")
def encoder(pack, recipe):
    """Learnt on the training pairs for a few seconds."""
    torch.manual_seed(0)
    settings = settings_of()
    encoder, task = build(settings, pack.given).train(), CLIP().fitted(settings)
    head = task.build_head(encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 3e-3)
    stored = {name: torch.from_numpy(np.array(array)) for name, array in pack.samples("train").items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        rows = torch.randint(160, (64,), generator=generator)
        inputs = encoder.read({name: array[rows] for name, array in stored.items()})
        labels = task.draw(64, settings, generator)
        task.step(encoder, head, task.render(encoder, inputs, labels), labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return encoder.eval()


def test_classes_are_found_by_their_names_and_not_by_others(pack, recipe, encoder, tmp_path):
    features = {
        split: embed(encoder, pack.samples(split), recipe.pretrain) for split in ("train", "validation", "test")
    }
    result = own(recipe, pack, encoder, features, tmp_path, SETTINGS)
    assert result.metrics[ACCURACY]["mean"] > 0.6 and result.facts["test_samples"] == 40
    assert list(result.metrics) == SETTINGS.metrics()
    # the names go round: what was found is now never right
    names = tested(pack)[2]
    turned = SETTINGS.model_copy(update={"names": dict(zip(names, names[1:] + names[:1], strict=True))})
    assert own(recipe, pack, encoder, features, tmp_path, turned).metrics[ACCURACY]["mean"] < 0.2
    assert "'a {} square'" in SETTINGS.caption(result.facts)


def test_baselines_are_at_chance(pack, recipe):
    found = baselines(recipe, pack, SETTINGS, lambda step: None)
    assert found["chance"][ACCURACY] == {"mean": 0.2, "low": 0.2, "high": 0.2}
    assert found["random encoder"][ACCURACY]["low"] < 0.2 < found["random encoder"][ACCURACY]["high"]


def test_prompts_are_averaged_as_unit_vectors(pack, encoder):
    texts = encoder.text(encoder.tokenize(["a red square", "red"]))
    unit = (texts / texts.norm(dim=1, keepdim=True)).mean(0)
    found = prompted(encoder, ["red"], SETTINGS)[0]
    torch.testing.assert_close(found, (unit / unit.norm()).detach(), rtol=1e-4, atol=1e-5)
    images = np.stack([found.numpy(), -found.numpy()])
    assert predicted(encoder, images, ["red"], SETTINGS).tolist() == ["red", "red"]


def test_metrics_equal_scikit_learns(pack):
    _, truth, names = tested(pack)
    answers = [np.random.default_rng(seed).permutation(truth) for seed in range(3)]
    found = summarize(answers, truth)
    assert found[ACCURACY]["mean"] == pytest.approx(np.mean([(a == truth).mean() for a in answers]))
    assert found[CLASS_MEAN]["mean"] == pytest.approx(np.mean([balanced_accuracy_score(truth, a) for a in answers]))
    assert found[CLASS_MEAN]["low"] < found[CLASS_MEAN]["mean"] < found[CLASS_MEAN]["high"]
    chance = at_chance(names)
    assert chance[CLASS_MEAN]["mean"] == chance[ACCURACY]["mean"] == 0.2


def test_a_prompt_needs_a_place():
    with pytest.raises(ValidationError, match="needs one place for the class's name"):
        ZeroShot(prompts=("a photo",))
