from __future__ import annotations

import math
import re
import zipfile

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders.log_mel import LogMel
from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings
from ssl_pipeline.evaluate.classic_audio import mfcc_features, svc_probe
from ssl_pipeline.ingest.audio import waveform
from tests.conftest import repository_data

SETTINGS = Settings(sample_rate=8000, seconds=0.2)


def sounds(n: int, seed: int = 0) -> np.ndarray:
    """Noise that fades, in the first half of a recording."""
    noise = np.random.default_rng(seed).standard_normal((n, 1600)) * np.exp(-np.arange(1600) / 200) * 3000
    return np.where(np.arange(1600) < 800, noise, 0).round().astype(np.int16)


def test_mfcc_are_those_of_a_loop_in_float64():
    audio = sounds(3)
    power = LogMel(SETTINGS.model_copy(update={"mels": 26})).power(torch.from_numpy(audio)).double().numpy()
    features = mfcc_features(audio, SETTINGS, 5)
    for recording, row in zip(power, features, strict=True):
        cepstra = []
        for frame in recording.T:
            if frame.sum() == 0:
                continue
            logs = [math.log(max(p, 1e-8 * recording.max() + 1e-10)) for p in frame]
            scale = [math.sqrt((1 if i == 0 else 2) / 26) for i in range(5)]
            cosines = [[math.cos(math.pi * i * (m + 0.5) / 26) for m in range(26)] for i in range(5)]
            cepstra.append([scale[i] * sum(c * x for c, x in zip(cosines[i], logs, strict=True)) for i in range(5)])
        assert 9 <= len(cepstra) < SETTINGS.frames
        np.testing.assert_allclose(row, [*np.mean(cepstra, 0), *np.std(cepstra, 0)], rtol=1e-4, atol=1e-4)


def test_loudness_moves_the_first_coefficient_alone():
    audio = sounds(2, seed=1)
    quiet, loud = (mfcc_features(audio * factor, SETTINGS) for factor in (1, 4))
    expected = np.zeros(40)
    expected[0] = math.log(16) * math.sqrt(26)
    np.testing.assert_allclose(loud - quiet, np.tile(expected, (2, 1)), atol=0.02)


def test_silence_has_no_features_and_breaks_nothing():
    features = mfcc_features(np.zeros((2, 1600), np.int16), SETTINGS)
    assert features.shape == (2, 40) and not features.any()


def test_svc_sees_what_no_line_divides():
    x = np.random.default_rng(0).standard_normal((600, 2))
    y = np.where(np.hypot(*x.T) < 1.1, "inside", "outside")
    answer = svc_probe(x[:300], y[:300], x[300:400], y[300:400], x[400:])
    assert (answer == y[400:]).mean() > 0.95


@pytest.mark.slow
def test_spoken_digits_of_an_unheard_speaker():
    """A split at random would say 0.95: the same speakers' recordings are alike."""
    audio, digits, speakers = [], [], []
    with zipfile.ZipFile(repository_data("fsdd.zip")) as archive:
        for name in sorted(archive.namelist()):
            if found := re.search(r"(\d)_([a-z]+)_\d+\.wav$", name):
                audio.append(waveform(archive.read(name), 8000, 7680))
                digits.append(found[1])
                speakers.append(found[2])
    y, who = np.array(digits), np.array(speakers)
    features = mfcc_features(np.stack(audio), Settings(sample_rate=8000))
    validation = np.random.default_rng(0).random(len(y)) < 0.15
    accuracy = []
    for speaker in np.unique(who):
        test = who == speaker
        train, held = ~test & ~validation, ~test & validation
        answer = svc_probe(features[train], y[train], features[held], y[held], features[test])
        accuracy.append((answer == y[test]).mean())
    assert 0.54 < np.mean(accuracy) < 0.61, accuracy
