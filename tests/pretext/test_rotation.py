from __future__ import annotations

import math

import numpy as np
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.pretext.labels import draw

IDENTITY = {"min_scale": 1.0, "flip": False, "rotate_degrees": 0.0, "color": 0.0, "blur": False}


def test_all_four_rotations_of_an_image_with_their_labels(make_recipe, digits_pack):
    recipe = make_recipe("rotation")
    images = torch.from_numpy(np.array(digits_pack.samples("train")["image"][:3])).float() / 255
    labels = draw(recipe.pretext, recipe.encoder, 3, 0, "train", 0)
    rotated = recipe.pretext.render(None, images, labels)
    upright = rotated[:, 0]
    for turns in range(4):
        expected = np.rot90(upright.numpy(), turns, axes=(2, 3))
        np.testing.assert_array_equal(rotated[:, turns].numpy(), expected)
    assert labels["quarter_turns"].tolist() == [[0, 1, 2, 3]] * 3


def test_an_ignorant_head_has_the_collapse_loss(make_recipe, digits_pack):
    recipe = make_recipe("rotation")
    encoder = build(recipe.encoder, {"channels": 1}).eval()
    head = recipe.pretext.build_head(encoder)
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    images = torch.from_numpy(np.array(digits_pack.samples("train")["image"][:8])).float() / 255
    labels = draw(recipe.pretext, recipe.encoder, 8, 0, "train", 0)
    out = recipe.pretext.step(encoder, head, recipe.pretext.render(encoder, images, labels), labels)
    assert math.isclose(out["loss"].item(), recipe.pretext.collapse_loss(8), rel_tol=1e-5)
    assert out["embedding"].shape == (32, encoder.dim)


def test_table_is_balanced(make_recipe):
    recipe = make_recipe("rotation")
    table = recipe.pretext.table(draw(recipe.pretext, recipe.encoder, 10, 0, "train", 0))
    assert table["label"].value_counts().to_dict() == {f"{d} degrees": 10 for d in (0, 90, 180, 270)}
