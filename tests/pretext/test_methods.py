"""The methods without negatives: losses against a second source, teachers, and the loop on each of them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, VICRegLoss

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.part import late
from ssl_pipeline.pretext import TASKS
from ssl_pipeline.pretext.joint import follow
from ssl_pipeline.pretext.labels import draw
from ssl_pipeline.pretext.lejepa import sigreg
from ssl_pipeline.pretext.vicreg import vicreg
from ssl_pipeline.pretrain.compute import Objective, render
from ssl_pipeline.pretrain.loop import pretrain

METHODS = ["vicreg", "byol", "dino", "lejepa"]


def objective_of(recipe):
    torch.manual_seed(0)
    encoder = build(recipe.encoder, {"channels": 1})
    return Objective(recipe.pretext, encoder, recipe.pretext.build_head(encoder))


def batch_of(recipe, pack, count=32):
    batch = {"image": torch.from_numpy(np.array(pack.samples("train")["image"][:count]))}
    return batch, draw(recipe.pretext, recipe.encoder, count, 0, "train", 0)


def test_every_task_is_in_the_recipe_once():
    names = [task.model_fields["task"].default for task in TASKS]
    assert len(set(names)) == len(names) and {*METHODS, "simclr", "rotation", "inpainting"} <= set(names)


def test_vicreg_equals_lightly():
    torch.manual_seed(0)
    z1, z2 = torch.randn(64, 16), torch.randn(64, 16) * 0.5
    invariance, variance, covariance = vicreg(z1, z2)
    theirs = VICRegLoss(lambda_param=25, mu_param=25, nu_param=1)(z1, z2)
    assert (25 * invariance + 25 * variance + covariance).item() == pytest.approx(theirs.item(), rel=1e-4)


def test_sigreg_against_a_loop_and_on_clouds():
    torch.manual_seed(0)
    z, directions = torch.randn(40, 3), torch.randn(3, 5)
    total = 0.0
    for k in range(5):
        unit = (directions[:, k] / directions[:, k].norm()).double()
        x = (z.double() @ unit).numpy()
        t = np.linspace(0, 3, 17)
        found = np.array([np.exp(1j * s * x).mean() for s in t])
        total += 40 * 2 * np.trapezoid(np.abs(found - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t)
    assert sigreg(z, directions).item() == pytest.approx(total / 5, rel=1e-4)
    directions = torch.randn(8, 64)
    gaussian = sigreg(torch.randn(2000, 8), directions)
    for other in (
        torch.zeros(2000, 8),
        torch.randn(2000, 8) + 1,
        0.3 * torch.randn(2000, 8),
        torch.randn(2000, 1).expand(-1, 8),
    ):
        assert sigreg(other, directions) > 10 * gaussian


def test_byol_equals_lightly(make_recipe, digits_pack):
    recipe = make_recipe("byol")
    objective = objective_of(recipe)
    batch, labels = batch_of(recipe, digits_pack)
    ours = objective(render(recipe.pretext, objective.encoder, batch, labels), labels)["loss"]
    twin = objective_of(recipe)
    views = render(recipe.pretext, twin.encoder, batch, labels)
    p1, p2 = twin.head["predictor"](twin.head["projector"](twin.encoder(views))).chunk(2)
    t1, t2 = twin.head["teacher"](views).chunk(2)
    theirs = NegativeCosineSimilarity()
    assert ours.item() == pytest.approx(4 + 2 * (theirs(p1, t2) + theirs(p2, t1)).item(), rel=1e-4)


def test_dino_equals_lightly(make_recipe, digits_pack):
    recipe = make_recipe("dino", {"prototypes": 32, "locals_per_image": 2})
    task, objective = recipe.pretext, objective_of(recipe)
    batch, labels = batch_of(recipe, digits_pack)
    said = {}
    real = task.__class__.step.__globals__["scores"]
    task.__class__.step.__globals__["scores"] = lambda *a: said.setdefault(len(said), real(*a))
    try:
        ours = objective(render(recipe.pretext, objective.encoder, batch, labels), labels)["loss"]
    finally:
        task.__class__.step.__globals__["scores"] = real
    large, small, teacher = said[0], said[1], said[2]
    theirs = DINOLoss(output_dim=32, warmup_teacher_temp=0.04, teacher_temp=0.04, student_temp=0.1)
    expected = theirs([*teacher.chunk(2)], [*large.chunk(2), *small.chunk(2)], epoch=0)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(objective.head.center, 0.1 * teacher.mean(0))
    assert task.collapse_loss(9) == pytest.approx(math.log(32))


@pytest.mark.parametrize("task", ["byol", "dino"])
def test_a_teacher_follows_in_fp32_and_learns_nothing_itself(task, make_recipe, digits_pack):
    recipe = make_recipe(task)
    objective = objective_of(recipe)
    teacher = objective.head["teacher"] if task == "byol" else objective.head.teacher
    batch, labels = batch_of(recipe, digits_pack)
    with torch.autocast("cpu", torch.bfloat16):
        objective(render(recipe.pretext, objective.encoder, batch, labels), labels)["loss"].backward()
    assert all(weight.grad is None and weight.dtype == torch.float32 for weight in teacher.parameters())
    assert (
        sum(float(weight.grad.abs().sum()) for weight in objective.encoder.parameters() if weight.grad is not None) > 0
    )
    with torch.no_grad():
        for weight in objective.encoder.parameters():
            weight.add_(1)
    before = [weight.clone() for weight in teacher.parameters()]
    recipe.pretext.after_step(objective.encoder, objective.head, 0.5)
    momentum = 1 - (1 - recipe.pretext.momentum) / 2
    for old, new, student in zip(before, teacher.parameters(), objective.encoder.parameters(), strict=False):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.eval()
    with torch.no_grad():
        objective(render(recipe.pretext, objective.encoder, batch, labels), labels)
    assert all(torch.equal(value, state[name]) for name, value in objective.state_dict().items())


def test_the_teachers_momentum_ends_at_one():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    kept = teacher.weight.clone()
    follow(teacher, [student], 0.9, 1.0)
    assert torch.equal(teacher.weight, kept)


def test_dino_leaves_a_vision_transformer_as_it_is_at_its_own_size(make_recipe, vit_settings):
    recipe = make_recipe("dino", encoder=vit_settings)
    images = torch.rand(4, 1, 16, 16)
    torch.manual_seed(0)
    encoder = build(recipe.encoder, {"channels": 1}).eval()
    expected = encoder(images)
    recipe.pretext.build_head(encoder)
    torch.testing.assert_close(encoder(images), expected)
    assert encoder(images[..., :8, :8]).shape == expected.shape
    with pytest.raises(ValueError, match=r"local_size 10 is not a multiple of the patch size 4.*use 8"):
        make_recipe("dino", {"local_size": 10}, encoder=vit_settings)


@pytest.mark.parametrize(
    ("network", "task"),
    [
        pytest.param(network, task, marks=[pytest.mark.slow] if (network, task) == ("vit", "dino") else [])
        for network in ("resnet", "vit")
        for task in METHODS
    ],
)
def test_trains_and_draws_its_picture(task, network, make_recipe, digits_pack, vit_settings, tmp_path):
    parts = {"encoder": vit_settings} if network == "vit" else {}
    mild = {"views": {"min_scale": 0.7, "flip": False, "color": 0.2, "blur": False}}
    few_steps = {
        "local_views": {**mild["views"], "min_scale": 0.3, "max_scale": 0.6},
        "momentum": 0.98,
        "prototypes": 128,
    }
    epochs, settings = (8, mild | few_steps) if task == "dino" else (3, mild)
    pretraining = {"epochs": epochs, "learning_rate": 3e-3, "batch_size": 60}
    recipe = make_recipe(task, settings, pretrain=pretraining, **parts)
    rows = []
    _, summary = pretrain(recipe, digits_pack, tmp_path, rows.append)
    losses = [row["loss"] for row in rows if "loss" in row]
    # DINO's first targets are nearly uniform and its last ones sharp, so its loss is compared with the collapsed one
    start = recipe.pretext.collapse_loss(60) - 0.05 if task == "dino" else losses[0]
    assert losses[-1] < start and np.isfinite(losses).all()
    assert summary["effective_rank"] > 1.5
    assert summary["encoder_passes"] == epochs * 1200 * {"vicreg": 2, "byol": 4, "dino": 5, "lejepa": 2}[task]
    batch, labels = batch_of(recipe, digits_pack, 5)
    picture = recipe.pretext.picture(build(recipe.encoder, {"channels": 1}), batch["image"].float() / 255, labels)
    assert picture.shape[:2] == (5, len(recipe.pretext.columns())) and picture.min() >= 0 and picture.max() <= 1
    assert len(recipe.pretext.table(labels)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("task", [*METHODS, "simclr", "rotation", "inpainting"])
def test_a_step_compiles_in_one_piece(task, make_recipe, digits_pack):
    recipe = make_recipe(task)
    batch, labels = batch_of(recipe, digits_pack)
    torch._dynamo.reset()
    late.settle()
    losses = []
    for compiled in (False, True):
        objective = objective_of(recipe)
        torch.manual_seed(0)
        look, step = partial(render, recipe.pretext, objective.encoder), objective
        if compiled:
            look, step = (torch.compile(part, fullgraph=True, dynamic=False) for part in (look, step))
        torch._inductor.config.fallback_random = True
        losses.append(step(look(batch, labels), labels)["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
