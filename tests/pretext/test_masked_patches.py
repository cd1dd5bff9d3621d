from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders.series import build
from ssl_pipeline.encoders.settings_series import SeriesEncoder
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.masked_patches import MaskedPatches

FACTS = {"mean": [1.0, -1.0], "std": [2.0, 1.0]}


@pytest.fixture(params=["mixed", "independent"])
def setting(request):
    settings = SeriesEncoder(
        length=40, patch=4, width=16, depth=1, heads=2, channels=request.param, normalize="instance"
    )
    torch.manual_seed(0)
    encoder = build(settings, FACTS)
    task = MaskedPatches().fitted(settings)
    return settings, encoder, task, task.build_head(encoder)


def test_each_sample_hides_the_same_number_of_patches(setting):
    settings, _, task, _ = setting
    hidden = task.draw(500, settings, generator(0))["hidden"]
    assert hidden.shape == (500, 10) and (hidden.sum(1) == 4).all()
    assert (hidden.float().mean(0) - 0.4).abs().max() < 0.1
    assert len(task.table({"hidden": hidden})) == 500


def test_the_loss_is_that_of_a_loop_in_float64(setting):
    settings, encoder, task, head = setting
    labels = task.draw(6, settings, generator(1))
    views = task.render(encoder, encoder.read(encoder.example(6)), labels)
    out = task.step(encoder, head, views, labels)
    patches = encoder.patchify(views)[0].double()
    blind = patches.clone()
    total, count = 0.0, 0
    for i, row in enumerate(labels["hidden"]):
        for token in row.nonzero().flatten():
            blind[i, :, token] = 0
    predicted = head.double()(encoder.double().encode(blind))
    for i, row in enumerate(labels["hidden"]):
        for lane in range(patches.shape[1]):
            for token in row.nonzero().flatten():
                total += (predicted[i, lane, token] - patches[i, lane, token]).square().mean().item()
                count += 1
    assert out["loss"].item() == pytest.approx(total / count, rel=1e-4)
    assert out["embedding"].shape == (6, encoder.dim)


def test_the_encoder_never_sees_hidden_patches(setting):
    settings, encoder, task, head = setting
    encoder.instance = False  # a window's own mean and deviation tell a little of what is hidden, as in the paper
    labels = task.draw(6, settings, generator(1))
    views = torch.randn(6, 2, 40)
    hidden = labels["hidden"].repeat_interleave(4, 1)[:, None]
    changed = torch.where(hidden, views + 5, views)
    first, second = (task.step(encoder, head, v, labels)["embedding"] for v in (views, changed))
    assert torch.equal(first, second)


def test_predicting_the_mean_costs_the_collapse_loss(setting):
    settings, encoder, task, head = setting
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    labels = task.draw(400, settings, generator(0))
    loss = task.step(encoder, head, torch.randn(400, 2, 40), labels)["loss"]
    assert loss.item() == pytest.approx(task.collapse_loss(400), abs=0.03)


def test_a_few_steps_learn_to_continue_a_sine():
    settings = SeriesEncoder(length=40, patch=4, width=32, depth=1, heads=2)
    torch.manual_seed(0)
    encoder, task = build(settings, {"mean": [0.0], "std": [1.0]}), MaskedPatches()
    head, draw = task.build_head(encoder), generator(0)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 3e-3)
    losses = []
    for _ in range(120):
        phase = torch.rand(64, 1, 1, generator=draw) * 6.28
        series = 2**0.5 * torch.sin(torch.arange(40) / 3 + phase)
        labels = task.draw(64, settings, draw)
        loss = task.step(encoder, head, series, labels)["loss"]
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and np.mean(losses[-10:]) < 0.5


def test_the_picture_leaves_hidden_patches_out(setting):
    settings, encoder, task, _ = setting
    labels = task.draw(3, settings, generator(1))
    picture = task.picture(encoder, encoder.read(encoder.example(3)), labels)
    assert picture.shape == (3, len(task.columns()), 3, 96, 192) and picture.isfinite().all()
    ink = (1 - picture).sum((2, 3, 4))
    assert (ink[:, 2] < 0.9 * ink[:, 1]).all()


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_masks_that_hide_none_or_all_are_refused(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio {ratio} of 16 patches hides none or all: use 0.4"):
        MaskedPatches(mask_ratio=ratio).fitted(SeriesEncoder())
