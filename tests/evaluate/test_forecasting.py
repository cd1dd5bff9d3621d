"""Forecasts of waves that a line can foretell and of noise that nothing can; skill against its definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.encoders.settings_series import SeriesEncoder
from ssl_pipeline.evaluate.forecasting import (
    baselines,
    both,
    forecast,
    own,
    parts,
    seen,
    standardised,
    summarize,
    tokens,
)
from ssl_pipeline.evaluate.settings_forecasting import Forecasting
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.report import pictures

SKILL = "forecasting/linear/skill/all"
SETTINGS = Forecasting(horizon=4, supervised_steps=60, random_encoders=2)
ENCODER = {"kind": "series", "length": 32, "patch": 4, "width": 16, "depth": 1, "heads": 2}


def pack_of(folder, make):
    """Windows of two channels, 300 in training."""
    random = np.random.default_rng(0)
    for split, count in {"train": 300, "validation": 60, "test": 80}.items():
        np.save(folder / f"{split}.values.npy", make(random, count).astype(np.float32))
        pd.DataFrame({"sample_id": range(count), "label": None, "group": None, "source": "x"}).to_parquet(
            folder / f"{split}.parquet"
        )
    return Pack(folder, {"channels": 2, "names": ["a", "b"], "length": 32, "mean": [0.0, 0.0], "std": [1.0, 1.0]})


def waves(random, count):
    phase, pace = random.uniform(0, 6, (count, 2, 1)), random.uniform(0.3, 0.6, (count, 1, 1))
    return np.sin(phase + pace * np.arange(32)) + random.normal(0, 0.05, (count, 2, 32))


def walks(random, count):
    return random.normal(0, 1, (count, 2, 32)).cumsum(2)


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate(
        {
            "name": "a",
            "dataset": "b",
            "encoder": ENCODER,
            "pretext": {"task": "masked_patches"},
            "evaluations": [SETTINGS],
        }
    )


def test_waves_are_foretold_and_random_walks_are_not(tmp_path, recipe):
    for make, least, most in ((waves, 0.7, 1.0), (walks, -0.3, 0.1)):
        (folder := tmp_path / make.__name__).mkdir()
        pack = pack_of(folder, make)
        found = baselines(recipe, pack, SETTINGS, lambda step: None)
        still = found["last value"][SKILL]
        values = [still["mean"], still["low"], still["high"], still["scores"].mean()]
        assert values == pytest.approx([0.0] * 4, abs=1e-6)
        assert least < found["linear forecast"][SKILL]["mean"] < most
        torch.manual_seed(0)
        encoder = build(SeriesEncoder.model_validate(ENCODER), pack.given).eval()
        result = own(recipe, pack, encoder, {}, folder, SETTINGS)
        assert least - 0.3 < result.metrics[SKILL]["mean"] < most and result.facts == {"test_samples": 80}
        picture, *what = result.pictures["forecasts"]
        assert getattr(pictures, picture)(*what).startswith(b"\x89PNG")
        if make is waves:
            assert found["supervised"][SKILL]["mean"] > 0.3


def test_the_future_is_never_seen(tmp_path, recipe):
    pack = pack_of(tmp_path, waves)
    encoder = build(SeriesEncoder.model_validate(ENCODER), pack.given).eval()
    series = standardised(pack, encoder)
    changed = series["test"].clone()
    changed[:, :, -4:] = torch.randn(80, 2, 4)
    assert torch.equal(seen(changed, SETTINGS), seen(series["test"], SETTINGS))
    np.testing.assert_array_equal(tokens(encoder, changed, SETTINGS), tokens(encoder, series["test"], SETTINGS))
    inputs = {split: tokens(encoder, x, SETTINGS) for split, x in series.items()}
    others = series | {"test": changed}
    np.testing.assert_array_equal(forecast(inputs, others, SETTINGS), forecast(inputs, series, SETTINGS))


def test_skill_is_the_share_of_the_last_values_error_that_is_saved(tmp_path):
    pack = pack_of(tmp_path, walks)
    series = standardised(pack, build(SeriesEncoder.model_validate(ENCODER), pack.given))
    known, truth = (part.numpy() for part in parts(series["test"], SETTINGS))
    last, answer = known[:, :, -1:], np.random.default_rng(1).normal(size=truth.shape)
    expected = 1 - ((last + answer - truth) ** 2).mean() / ((last - truth) ** 2).mean()
    cell = summarize([answer], series, SETTINGS)[SKILL]
    assert cell["mean"] == pytest.approx(expected, rel=1e-5) and cell["low"] < cell["mean"] < cell["high"]
    assert summarize([truth - last], series, SETTINGS)[SKILL]["mean"] == 1
    assert {name: tuple(map(len, pair)) for name, pair in both(series, SETTINGS).items()}["test"] == (80, 80)


def test_a_horizon_leaves_something_to_see():
    with pytest.raises(ValidationError, match="leaves less than half of the encoder's length 32: lower it to 16"):
        Recipe.model_validate(
            {
                "name": "a", "dataset": "b", "encoder": ENCODER, "pretext": {"task": "masked_patches"},
                "evaluations": [{"kind": "forecasting", "horizon": 20}],
            }
        )  # fmt: skip


def test_windows_that_were_filled_up_are_refused(tmp_path, recipe):
    def short(random, count):
        values = walks(random, count)
        values[:, :, 20:] = values[:, :, 19:20]
        return values

    with pytest.raises(PipelineError, match="nothing changes in the last 4 steps of the train split's windows"):
        baselines(recipe, pack_of(tmp_path, short), SETTINGS, lambda step: None)


def test_an_encoder_that_normalises_windows_keeps_their_scale(tmp_path, recipe):
    def louder(random, count):
        return waves(random, count) * np.exp(random.normal(0, 2, (count, 1, 1)))

    pack = pack_of(tmp_path, louder)
    torch.manual_seed(0)
    encoder = build(SeriesEncoder.model_validate(ENCODER | {"normalize": "instance"}), pack.given).eval()
    assert own(recipe, pack, encoder, {}, tmp_path, SETTINGS).metrics[SKILL]["mean"] > 0.7
