"""CLIP and SigLIP on real batches: which caption is drawn, what is learnt, what a person is shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders.image_text import build
from ssl_pipeline.part import late
from ssl_pipeline.pretext.clip import CLIP
from ssl_pipeline.pretext.siglip import SigLIP
from tests.captioned_squares import pack_of, settings_of

TASKS = [CLIP(), SigLIP()]
GENTLE = {"min_scale": 0.8, "flip": False, "color": 0.1, "blur": False}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def encoder(pack):
    torch.manual_seed(0)
    return build(settings_of(), pack.facts)


def arrays(pack, split="train"):
    return {name: torch.from_numpy(np.array(array)) for name, array in pack.samples(split).items()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_of_the_real_captions_is_drawn_each_as_often(encoder, pack):
    inputs = encoder.read(arrays(pack))
    task, drawn = CLIP(), []
    for seed in range(60):
        shown = task.render(encoder, inputs, task.draw(160, settings_of(), generator(seed)))
        drawn.append((shown["tokens"][:, None] == inputs["tokens"]).all(2))
    share = torch.stack(drawn).float().mean(0)  # [160, 2]
    alone = inputs["count"] == 1
    assert (share[alone, 0] == 1).all() and (share[~alone].sum(1) == 1).all()
    assert share[~alone, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert all(torch.equal(a, b) for a, b in zip(
        task.draw(9, settings_of(), generator()).values(), task.draw(9, settings_of(), generator()).values(), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_learns_which_caption_belongs_to_an_image(task, encoder, pack):
    task, stored = task.model_copy(update={"views": task.views.model_validate(GENTLE)}), arrays(pack)
    head = task.build_head(encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    losses, accuracy = [], []
    for step in range(40):
        part = torch.randperm(160, generator=generator(step))[:40]
        batch = {name: array[part] for name, array in stored.items()}
        labels = task.draw(40, settings_of(), generator(step))
        with torch.autocast("cpu", torch.bfloat16):
            views = task.render(encoder, encoder.read(batch), labels)
            out = task.step(encoder, head, views, labels)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(encoder, head, step / 40)
        losses.append(out["loss"].item())
        accuracy.append(out["accuracy"].item())
    assert out["loss"].dtype == torch.float32 and out["embedding"].shape == (40, 32)
    # twenty kinds of drawings, two to four of each in a batch that only their numbers tell apart
    assert np.mean(accuracy[-5:]) > 0.2 > 2 * np.mean(accuracy[:5])
    assert np.mean(losses[-5:]) < task.collapse_loss(40) - 0.5
    assert out["scale"].item() != pytest.approx(math.exp(task.build_head(encoder).log_scale.item()))


def test_scales_start_as_in_the_papers_and_clip_holds_its_own_under_100(encoder):
    assert CLIP().build_head(encoder).log_scale.exp().item() == pytest.approx(1 / 0.07)
    head = SigLIP().build_head(encoder)
    assert head.log_scale.exp().item() == pytest.approx(10) and head.bias.item() == -10
    head = CLIP().build_head(encoder)
    with torch.no_grad():
        head.log_scale.fill_(6)
    CLIP().after_step(encoder, head, 0.5)
    assert head.log_scale.exp().item() == pytest.approx(100)


def test_what_a_person_sees(encoder, pack):
    task, inputs = CLIP(), encoder.read({name: array[:4] for name, array in arrays(pack).items()})
    labels = task.draw(4, settings_of(), generator())
    picture = task.picture(encoder, inputs, labels)
    assert picture.shape == (4, 2, 3, 16, 16) and len(task.columns()) == 2
    assert picture.min() >= 0 and picture.max() <= 1
    titles = task.row_titles(encoder, inputs, labels)
    assert all(color in title for color, title in zip(("red", "green", "blue", "yellow"), titles, strict=True))
    assert len(task.table(labels)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_a_step_compiles_in_one_piece(task, pack):
    batch = {name: array[:32] for name, array in arrays(pack).items()}
    task = task.model_copy(update={"views": task.views.model_copy(update={"color": 0.0})})
    labels = task.draw(32, settings_of(), generator())
    torch._dynamo.reset()
    late.settle()
    torch._inductor.config.fallback_random = True
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        encoder = build(settings_of(), pack.facts)
        head = task.build_head(encoder)

        def look(batch, encoder=encoder):
            with torch.no_grad():
                return task.render(encoder, encoder.read(batch), labels)

        def step(views, encoder=encoder, head=head):
            return task.step(encoder, head, views, labels)["loss"]

        if compiled:
            look, step = (torch.compile(part, fullgraph=True, dynamic=False) for part in (look, step))
        views = look(batch)
        torch.manual_seed(0)
        losses.append(step(views).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
