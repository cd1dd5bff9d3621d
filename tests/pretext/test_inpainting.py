from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.pretext.labels import draw

PLAIN = {"views": {"min_scale": 1.0, "flip": False, "color": 0, "blur": False}}


def batch(pack, count=6):
    return torch.from_numpy(np.array(pack.samples("train")["image"][:count])).float() / 255


def test_masks_hide_the_same_share_of_every_image(make_recipe):
    recipe = make_recipe("inpainting", {"mask_ratio": 0.6, "patch": 4})
    hidden = draw(recipe.pretext, recipe.encoder, 500, 0, "train", 0)["hidden"]
    assert hidden.shape == (500, 16)
    assert (hidden.sum(1) == round(0.6 * 16)).all()
    assert (hidden.float().mean(0) - 0.625).abs().max() < 0.1  # every place is hidden about as often


def test_patchify_against_a_loop(make_recipe):
    task = make_recipe("inpainting").pretext
    images = torch.randn(2, 3, 16, 16)
    patches = task.patchify(images, torch.zeros(2, 16, dtype=torch.bool))
    for p in range(16):
        row, column = divmod(p, 4)
        block = images[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        torch.testing.assert_close(patches[:, p], block.flatten(1))


def test_loss_is_the_mean_square_over_hidden_patches_alone(make_recipe, digits_pack, monkeypatch):
    recipe = make_recipe("inpainting", {"patch": 4, "normalize_target": False} | PLAIN)
    task, encoder, images = recipe.pretext, build(recipe.encoder, {"channels": 1}), batch(digits_pack)
    labels = draw(task, recipe.encoder, 6, 0, "train", 0)
    prediction = torch.randn(6, 16, 16)
    monkeypatch.setattr(type(task), "predict_cnn", lambda *_: (prediction, torch.zeros(6, 4)))
    views = task.render(encoder, images, labels)
    loss = task.step(encoder, torch.nn.Identity(), views, labels)["loss"]
    target = task.patchify(encoder.normalize(views), labels["hidden"])
    errors = [
        ((prediction[i, p] - target[i, p]) ** 2).mean() for i in range(6) for p in range(16) if labels["hidden"][i, p]
    ]
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize("backbone", ["cnn", "vit"])
def test_hidden_pixels_do_not_reach_the_encoder(make_recipe, digits_pack, vit_settings, backbone):
    recipe = make_recipe("inpainting", {"patch": 4} | PLAIN, **({"encoder": vit_settings} if backbone == "vit" else {}))
    torch.manual_seed(0)
    task, encoder, images = recipe.pretext, build(recipe.encoder, {"channels": 1}).eval(), batch(digits_pack)
    labels = draw(task, recipe.encoder, 6, 0, "train", 0)
    head = task.build_head(encoder).eval()
    encoder.eval()
    noise = task.paint(torch.zeros_like(images), labels["hidden"], 1.0) * torch.rand_like(images)
    changed = torch.where(noise > 0, noise, task.views.render(images, labels))
    predict = task.predict_mae if backbone == "vit" else task.predict_cnn
    with torch.no_grad():
        before, _ = predict(encoder, head, task.views.render(images, labels), labels["hidden"])
        after, _ = predict(encoder, head, changed, labels["hidden"])
        seen, _ = predict(encoder, head, 1 - images, labels["hidden"])
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, seen)


def test_a_patch_that_does_not_fit_is_refused_with_one_that_does(make_recipe):
    with pytest.raises(ValueError, match=r"patch 5 does not divide encoder\.image_size 16: use 2"):
        make_recipe("inpainting", {"patch": 5})
