from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ssl_pipeline.evaluate import attentive, classification
from ssl_pipeline.evaluate.classification import labels_of
from ssl_pipeline.evaluate.clip_controls import CONTROLS, without_time
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Pack, take
from ssl_pipeline.report.tables import comparison, rows_of

FRAMES = 9


@pytest.fixture
def random():
    return np.random.default_rng(0)


def circling(way: int, random: np.random.Generator) -> np.ndarray:
    """Brightness `[60, frames]` that goes once around a circle from a random place on, up or down: every frame of either class is
    as bright as any, and so is every frame of a clip in random order."""
    return (random.random((60, 1)) + way * np.arange(FRAMES) / FRAMES) % 1


def put(path, **classes) -> Pack:
    """A pack of grey frames; of each class a function that draws the brightness of a split's clips."""
    for split in SPLITS:
        values = {name: draw() for name, draw in classes.items()}
        grey = np.floor(256 * np.concatenate([*values.values()])).astype(np.uint8)[..., None, None, None]
        np.save(path / f"{split}.clip.npy", np.broadcast_to(grey, (*grey.shape[:2], 1, 4, 4)))
        labels = [name for name, drawn in values.items() for _ in drawn]
        pd.DataFrame({"label": labels}).to_parquet(path / f"{split}.parquet")
    return Pack(path, {"channels": 1, "mean": [0.5], "std": [0.3]})


class Angles(nn.Module):
    """Sees a frame's brightness as an angle; `across` gives it what each frame differs from the one before it, and the mean over
    frames otherwise."""

    dim, device = 3 * (FRAMES - 1), torch.device("cpu")

    def __init__(self, across: bool) -> None:
        super().__init__()
        self.across = across

    def read(self, batch):
        return batch["clip"].float() / 256

    def tokens(self, clips):
        angle = 2 * math.pi * clips.mean((2, 3, 4))
        if self.across:
            angle = angle.diff(dim=1)
        return torch.stack([angle.sin(), angle.cos(), -angle.sin()], 2)  # [batch, places, 3]

    def forward(self, clips):
        tokens = self.tokens(clips)
        return tokens.flatten(1) if self.across else tokens.mean(1)


@pytest.fixture
def pack(tmp_path, random):
    """Two classes that differ in the order of frames alone."""
    return put(tmp_path, rises=lambda: circling(1, random), falls=lambda: circling(-1, random))


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(
        "frame_order",
        encoder={"kind": "video", "image_size": 8, "frames": FRAMES},
        pretrain={"compile": False, "precision": "fp32"},
        evaluations=[{"kind": "classification"}],
        promote=None,
    )


def result(pack, recipe, encoder, **said):
    settings = Classification(**({"shots": (20, "all"), "draws": 3} | said))
    features = {split: embed(encoder, pack.samples(split), recipe.pretrain) for split in SPLITS}
    return classification.own(recipe, pack, encoder, features, pack.path, settings), settings


def test_an_encoder_that_sees_time_loses_it(pack, recipe):
    found, settings = result(pack, recipe, Angles(across=True))
    assert list(found.controls) == ["one frame", "shuffled frames"] == list(CONTROLS)
    for name in (f"classification/{probe}/accuracy/{shots}" for probe in ("knn", "linear") for shots in ("20", "all")):
        assert found.metrics[name]["low"] > 0.9
        for control in found.controls.values():
            assert list(control) == list(found.metrics)
            assert control[name]["low"] < 0.5 < control[name]["high"] < found.metrics[name]["low"], name
    caption = settings.caption(found.facts | {"controls": list(found.controls)})
    assert "one frame and shuffled frames are controls" in caption
    assert "controls" not in settings.caption(found.facts), "of images nothing is said"


def test_an_encoder_that_averages_frames_has_no_order_to_lose(tmp_path, recipe, random):
    """Bright and dark clips, that any frame tells apart."""
    size = (40, FRAMES)
    pack = put(tmp_path, dark=lambda: random.uniform(0, 0.3, size), bright=lambda: random.uniform(0.5, 0.8, size))
    found, _ = result(pack, recipe, Angles(across=False))
    name = "classification/linear/accuracy/all"
    assert found.controls["shuffled frames"][name] | {"scores": 0} == found.metrics[name] | {"scores": 0}
    assert found.controls["one frame"][name]["low"] > 0.9


def test_attentive_probes_see_the_controls_too(pack, recipe, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 60)
    found, _ = result(pack, recipe, Angles(across=True), shots=("all",), probes=("linear", "attentive"))
    name = "classification/attentive/accuracy/all"
    assert found.metrics[name]["low"] > 0.9
    assert all(control[name]["low"] < 0.5 < control[name]["high"] for control in found.controls.values())


def test_images_have_no_such_controls(digits_pack, make_recipe):
    features = {split: np.random.default_rng(0).random((len(digits_pack.index(split)), 4)) for split in SPLITS}
    settings = Classification(shots=(5,), draws=3)
    assert (
        classification.own(make_recipe("rotation"), digits_pack, None, features, digits_pack.path, settings).controls
        == {}
    )


def test_frames_are_elsewhere_and_none_is_lost(pack):
    packs = without_time(pack)
    for split in SPLITS:
        clips = np.array(pack.samples(split)["clip"])
        one, shuffled = (packs[name].samples(split)["clip"] for name in ("one frame", "shuffled frames"))
        assert len(one) == len(clips) and shuffled.shape == clips.shape
        assert (one[:] == clips[:, FRAMES // 2, None]).all()
        assert (np.sort(shuffled[:], 1) == np.sort(clips, 1)).all() and (shuffled[:] != clips).any(
            (1, 2, 3, 4)
        ).mean() > 0.9
        few = np.array([3, 50, 7])
        again = without_time(pack)["shuffled frames"].samples(split)
        np.testing.assert_array_equal(take(again, few)["clip"], shuffled[:][few])
        np.testing.assert_array_equal(shuffled[5:8], shuffled[:][5:8])
    assert labels_of(packs["one frame"]).names == ["falls", "rises"]


def test_controls_keep_part_of_what_was_learnt_and_need_not_be_beaten():
    def cell(mean):
        return {"classification/linear/accuracy/all": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}}

    rows = rows_of("ours", "frame_order", cell(0.9)) + rows_of("random encoder", "", cell(0.5), baseline=True)
    rows += [row for name in CONTROLS for row in rows_of(name, "", cell(0.9), baseline=True)]
    table = comparison(rows)
    assert [line.name for line in table.lines] == ["ours", "random encoder", *CONTROLS]
    assert table.text(table.lines[0], ("linear", "all")) == "90.0 ±1.0*"
