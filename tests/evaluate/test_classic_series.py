from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pipeline.evaluate.classic_series import (
    KERNELS,
    MiniRocket,
    convolve,
    dilations_of,
    mini_rocket,
    z_normalize,
)
from ssl_pipeline.ingest.demo_series import cases


@pytest.fixture
def archive():
    """A data set of the UCR archive with its own split: `archive(name)` -> train, labels, test, labels."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        pytest.skip("package aeon, which carries the data, is not installed")
    folder = Path(spec.origin).parent / "datasets" / "data"

    def load(name: str):
        parts = []
        for part in ("TRAIN", "TEST"):
            values, labels = zip(*cases(folder / name / f"{name}_{part}.ts"), strict=True)
            parts += [np.stack(values), np.array(labels)]
        return parts

    return load


def test_mini_rocket_takes_several_channels(archive):
    train, labels, test, expected = archive("BasicMotions")
    assert train.shape == (40, 6, 100) and (mini_rocket(train, labels, test) == expected).mean() >= 0.97


def test_kernels_are_all_placements_of_three_twos_and_sum_to_zero():
    assert KERNELS.shape == (84, 9) and len({tuple(row.tolist()) for row in KERNELS}) == 84
    assert (KERNELS.sum(1) == 0).all() and ((KERNELS == 2).sum(1) == 3).all()


def test_features_are_those_of_a_loop():
    train = np.random.default_rng(0).standard_normal((6, 3, 40)).cumsum(2).astype(np.float32)
    rocket = MiniRocket.fit(train, seed=1, features=84 * 10)
    found = iter(rocket.transform(train[:1])[0])
    for number, (dilation, mix, biases) in enumerate(zip(rocket.dilations, rocket.mixes, rocket.biases, strict=True)):
        outputs = []
        for kernel in range(84):
            mixed = sum(train[0, c].astype(np.float64) for c in range(3) if mix[kernel, c])
            padded = np.pad(mixed, 4 * dilation)
            outputs.append(
                [sum(KERNELS[kernel, j].item() * padded[t + j * dilation] for j in range(9)) for t in range(40)]
            )
        inside = [(number + kernel) % 2 == 1 for kernel in range(84)]
        for kernel in [*(k for k in range(84) if not inside[k]), *(k for k in range(84) if inside[k])]:
            margin = 4 * dilation if inside[kernel] else 0
            output = np.array(outputs[kernel])[margin : 40 - margin]
            for bias in biases[kernel].tolist():
                assert next(found) == pytest.approx((output > bias).mean(), abs=1.01 / len(output))  # of a tie
    assert next(found, None) is None


def test_biases_are_quantiles_of_outputs_on_training_series():
    train = np.random.default_rng(0).standard_normal((20, 1, 50)).astype(np.float32)
    rocket = MiniRocket.fit(train)
    for dilation, biases in zip(rocket.dilations, rocket.biases, strict=True):
        output = convolve(torch.from_numpy(train).expand(-1, 84, -1), dilation)
        assert (biases >= output.amin((0, 2))[:, None]).all() and (biases <= output.amax((0, 2))[:, None]).all()
    assert rocket.transform(train).shape == (20, 84 * 119)
    shares = rocket.transform(train).mean(0)
    assert 0.3 < shares.mean() < 0.7 and shares.std() > 0.2  # spread over all of 0..1


@pytest.mark.parametrize("steps", [9, 24, 150, 5000])
def test_dilations_reach_as_far_as_the_series(steps):
    dilations, counts = dilations_of(steps, 119)
    assert dilations[0] == 1 and sum(counts) == 119 and min(counts) >= 1 and sorted(set(dilations)) == dilations
    assert 8 * dilations[-1] < steps <= 16 * (dilations[-1] + 1)


def test_large_sets_are_transformed_in_chunks(monkeypatch):
    train = np.random.default_rng(0).standard_normal((7, 2, 30)).astype(np.float32)
    rocket = MiniRocket.fit(train, features=840)
    whole = rocket.transform(train)
    monkeypatch.setattr("ssl_pipeline.evaluate.classic_series.CHUNK_VALUES", 84 * 30 * 2)
    np.testing.assert_array_equal(rocket.transform(train), whole)


def test_short_series_and_constant_channels():
    with pytest.raises(ValueError, match="series of 8 steps are shorter than MiniRocket's kernels of 9"):
        MiniRocket.fit(np.zeros((2, 1, 8), np.float32))
    series = np.stack([np.full((1, 9), 3.0), np.arange(9.0)[None]]).astype(np.float32)
    normal = z_normalize(series)
    assert (normal[0] == 0).all() and normal[1].std() == pytest.approx(1)
