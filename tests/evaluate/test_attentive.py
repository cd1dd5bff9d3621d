from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.encoders.settings import ImageEncoder
from ssl_pipeline.encoders.settings_audio import AudioEncoder
from ssl_pipeline.encoders.settings_series import SeriesEncoder
from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.evaluate import attentive
from ssl_pipeline.evaluate.attentive import AttentiveProbe, attentive_rows
from ssl_pipeline.evaluate.classification import labels_of
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing.tokens import special_in, train_tokenizer
from tests.captioned_squares import pack_of, settings_of

VIT = {"backbone": "test_vit", "image_size": 16, "options": {"patch_size": 4}}


def test_one_query_attends_to_what_is_no_padding():
    torch.manual_seed(0)
    probe = AttentiveProbe(3, 2)  # 3 and 8 share no divisor: one head
    tokens = torch.randn(2, 5, 3)
    tokens[1, 3:] = 0
    normal, weights = probe.norm(tokens), probe.attention.in_proj_weight.chunk(3)
    expected = []
    for row, real in zip(normal, (5, 3), strict=True):
        query, keys, values = weights[0] @ probe.query[0, 0], row[:real] @ weights[1].T, row[:real] @ weights[2].T
        looked = torch.softmax(keys @ query / 3**0.5, 0) @ values
        expected.append(probe.classify(probe.attention.out_proj(looked)))
    torch.testing.assert_close(probe(tokens), torch.stack(expected))
    torch.testing.assert_close(probe(tokens[1:, :3]), probe(tokens)[1:])


@pytest.fixture
def recipe(make_recipe):
    return make_recipe("simclr", encoder=VIT, pretrain={"precision": "fp32"})


def test_digits_are_read_off_a_random_vit_and_shuffled_ones_are_not(digits_pack, recipe, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 150)
    torch.manual_seed(0)
    encoder, labels = build(recipe.encoder, digits_pack.given), labels_of(digits_pack)
    settings = Classification(shots=(20,), draws=3, probes=("linear", "attentive"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    rows = attentive_rows("vit", [encoder], recipe, digits_pack, labels, settings)
    assert {(row["probe"], row["shots"], row["draw"]) for row in rows} == {("attentive", "20", d) for d in range(3)}
    assert pd.DataFrame(rows)["accuracy"].mean() > 0.35
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()), "it was frozen"
    shuffled = {split: np.random.default_rng(0).permutation(given) for split, given in labels.classes.items()}
    monkeypatch.setattr(attentive, "STEPS", 30)
    chance = attentive_rows("vit", [encoder], recipe, digits_pack, replace(labels, classes=shuffled), settings)
    assert pd.DataFrame(chance)["accuracy"].mean() < 0.17


def test_tokens_that_are_too_many_to_keep_are_the_same(digits_pack, recipe, monkeypatch):
    encoder, rows = build(recipe.encoder, digits_pack.given).eval(), np.array([7, 300, 3])
    kept = attentive.Tokens(encoder, recipe, digits_pack)
    expected = kept("train", rows)
    monkeypatch.setattr(attentive, "MOST_BYTES", 1)
    computed = attentive.Tokens(encoder, recipe, digits_pack)
    torch.testing.assert_close(computed("train", rows), expected)
    assert computed.kept["train"] is None and len(kept.kept["train"]) == 1200


def test_what_has_no_tokens_is_refused(digits_pack, make_recipe):
    recipe = make_recipe("simclr")
    settings = Classification(probes=("linear", "attentive"))
    with pytest.raises(ValueError, match=r"attentive reads the tokens of a transformer, and 'resnet18' has none"):
        settings.fitted(recipe.encoder)
    with pytest.raises(PipelineError, match="ImageEncoder has no tokens: take attentive out"):
        attentive_rows(
            "x", [build(recipe.encoder, digits_pack.given)], recipe, digits_pack, labels_of(digits_pack), settings
        )
    with pytest.raises(ValueError, match="lacks linear"):
        Classification(probes=("attentive",))
    assert "classification/attentive/macro_f1/all" in settings.metrics()


def test_tokens_of_every_kind(tmp_path):
    tokenizer = train_tokenizer(iter(["The quick brown fox jumps over lazy dogs."] * 9), 300)
    words = {
        "vocabulary": tokenizer.get_vocab_size(),
        "special": special_in(tokenizer)._asdict(),
        "tokenizer": tokenizer.to_str(),
    }
    picture = {"backbone": "test_vit", "options": {"patch_size": 4}}
    squares = pack_of(tmp_path)
    channels, sound = {"mean": [0, 0], "std": [1, 1]}, {"mean": 0.0, "std": 1.0}
    lanes = SeriesEncoder(length=24, patch=4, width=16, depth=1, heads=2, channels="independent")
    spectrogram = AudioEncoder(backbone="test_vit", seconds=0.96, mels=32, options={"patch_size": 8})
    made = {
        "image": (build(ImageEncoder(image_size=16, **picture), {"channels": 1}), 17),
        "video": (build(VideoEncoder(image_size=16, frames=3, **picture), {"channels": 1}), 3 * 17),
        "text": (build(TextEncoder(layers=1, width=32, heads=2, length=24), words), 24),
        "series": (build(lanes, channels), 2 * 6),
        "image_text": (build(settings_of(image=ImageEncoder(image_size=16, **picture)), squares.given), 17),
        "audio": (build(spectrogram, sound), 1 + 4 * 12),
    }
    for kind, (encoder, places) in made.items():
        with torch.no_grad():
            found = encoder.eval().tokens(encoder.read(encoder.example(2)))
        assert found.ndim == 3 and len(found) == 2 and found.shape[1] > 1, kind
        assert kind == "text" or found.shape[1] == places, kind
    text = made["text"][0]
    batch = text.example(3, torch.Generator().manual_seed(0))
    seen = text.read(batch)
    tokens = text.tokens(seen)
    real = text.real(seen)
    assert torch.equal((tokens == 0).all(2), ~real) and not real.all()
    torch.testing.assert_close(tokens.sum(1) / real.sum(1, keepdim=True), text(seen))
