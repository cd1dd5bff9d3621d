"""Losses on pairs against loops in float64, against transformers' models, and in two processes against one."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from ssl_pipeline.pretext.clip import CLIP
from ssl_pipeline.pretext.pair_losses import info_nce, key_of, sigmoid_pairs
from ssl_pipeline.pretext.siglip import SigLIP

SCALE, BIAS = torch.tensor([7.0]), torch.tensor([-3.0])


def pair(n=12, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, dim, generator=generator) for _ in range(2))


def by_the_papers(image, text, key, scale, bias=None):
    """Both losses as loops in float64 over pairs, those that read the same left out."""
    image, text = (F.normalize(z.double(), dim=1).numpy() for z in (image, text))
    n, key = len(image), key.tolist()
    cosine = scale * image @ text.T

    def others(i):
        return [j for j in range(n) if j == i or key[j] != key[i]]

    if bias is None:
        rows = sum(math.log(sum(math.exp(cosine[i, j]) for j in others(i))) - cosine[i, i] for i in range(n))
        columns = sum(math.log(sum(math.exp(cosine[j, i]) for j in others(i))) - cosine[i, i] for i in range(n))
        return (rows + columns) / (2 * n)
    total = 0.0
    for i in range(n):
        for j in others(i):
            sign = 1 if i == j else -1
            total += math.log1p(math.exp(-sign * (cosine[i, j] + bias)))
    return total / n


@pytest.mark.parametrize("repeats", [False, True])
def test_losses_equal_loops_in_float64(repeats):
    image, text = pair()
    key = torch.arange(12) % (5 if repeats else 12)
    assert info_nce(image, text, key, SCALE)[0].item() == pytest.approx(by_the_papers(image, text, key, 7.0), rel=1e-5)
    ours = sigmoid_pairs(image, text, key, SCALE, BIAS)[0].item()
    assert ours == pytest.approx(by_the_papers(image, text, key, 7.0, -3.0), rel=1e-5)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_losses_and_gradients_equal_transformers(family):
    """Tiny models with random weights: their loss, and its gradients for scale and bias."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = small | {"vocab_size": 50}, small | {"image_size": 8, "patch_size": 4}
    if family == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    tokens, images = torch.randint(3, 50, (6, 5)), torch.randn(6, 3, 8, 8)
    out = model(input_ids=tokens, pixel_values=images, return_loss=True)
    learnt = [model.logit_scale] + ([model.logit_bias] if family == "siglip" else [])
    expected = torch.autograd.grad(out.loss, learnt, retain_graph=True)
    scale, key = model.logit_scale.exp().reshape(1), torch.arange(6)
    if family == "clip":
        ours, _ = info_nce(out.image_embeds, out.text_embeds, key, scale)
    else:
        ours, _ = sigmoid_pairs(out.image_embeds, out.text_embeds, key, scale, model.logit_bias.reshape(1))
    assert ours.item() == pytest.approx(out.loss.item(), rel=1e-5)
    for got, wanted in zip(torch.autograd.grad(ours, learnt), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_pairs_that_read_the_same_neither_attract_nor_repel():
    image, text = pair(4)
    image.requires_grad_()
    tokens = torch.tensor([[2, 7, 3], [2, 8, 3], [2, 7, 3], [2, 9, 3]])
    text = text[[0, 1, 0, 3]]
    key = key_of(tokens)
    for loss, rest in ((info_nce, [SCALE]), (sigmoid_pairs, [SCALE, BIAS])):
        (of_two,) = torch.autograd.grad(loss(image, text, key, *rest)[0], image)
        (of_all,) = torch.autograd.grad(loss(image, text, torch.arange(4), *rest)[0], image)
        assert (of_two - of_all)[[0, 2]].abs().max() > 1e-3
        assert loss(image, text, key, *rest)[0] < loss(image, text, torch.arange(4), *rest)[0]


def test_keys_are_equal_for_equal_rows_alone():
    tokens = torch.randint(0, 60_000, (3000, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint16)
    one_off = tokens.clone().long()
    one_off[:, 31] += 1
    moved = tokens.long().roll(1, 1)
    keys = torch.cat([key_of(tokens), key_of(one_off), key_of(moved)])
    assert len(keys.unique()) == 9000
    assert torch.equal(key_of(tokens.int()), key_of(tokens))


def test_a_perfect_and_a_useless_batch():
    z, key = torch.eye(16), torch.arange(16)
    assert info_nce(z, z, key, torch.tensor([100.0]))[0] < 1e-6 and info_nce(z, z, key, SCALE)[1] == 1
    assert sigmoid_pairs(z, z, key, torch.tensor([200.0]), torch.tensor([-100.0]))[0] < 1e-6
    same = torch.ones(16, 4)
    assert info_nce(same, same, key, SCALE)[0].item() == pytest.approx(CLIP().collapse_loss(16), rel=1e-6)
    constants = [sigmoid_pairs(same, same, key, SCALE, torch.tensor([b]))[0].item() for b in np.linspace(-12, -6, 601)]
    assert min(constants) == pytest.approx(SigLIP().collapse_loss(16), rel=1e-5)


def test_bf16_towers_are_compared_in_fp32():
    image, text = pair(32, 64)
    expected = info_nce(image.bfloat16(), text.bfloat16(), torch.arange(32), SCALE)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = info_nce(image.bfloat16(), text.bfloat16(), torch.arange(32), SCALE)[0]
    assert got.dtype == torch.float32 and got.item() == expected.item()


IN_TWO = """
import sys, torch, torch.distributed as dist
from ssl_pipeline.pretext.pair_losses import info_nce, sigmoid_pairs
rank, world, store, saved = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
generator = torch.Generator().manual_seed(0)
image, text = (torch.randn(12, 6, generator=generator).chunk(world)[rank].requires_grad_() for _ in range(2))
key = (torch.arange(12) % 5).chunk(world)[rank]
out = {}
for name, loss, rest in (("clip", info_nce, 1), ("siglip", sigmoid_pairs, 2)):
    learnt = [torch.tensor([7.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)][:rest]
    value = loss(image, text, key, *learnt)[0]
    gradients = torch.autograd.grad(value, [image, text, *learnt])
    out[name] = [value.detach(), *gradients]
torch.save(out, f"{saved}.{rank}")
if world > 1:  # gloo's threads abort a process that ends while they run
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_processes_give_the_loss_and_the_gradients_of_one(tmp_path):
    def run(world):
        saved = tmp_path / f"of{world}"
        command = [sys.executable, "-c", IN_TWO]
        started = [
            subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "store"), str(saved)])
            for rank in range(world)
        ]
        assert [process.wait(120) for process in started] == [0] * world
        return [torch.load(f"{saved}.{rank}", weights_only=True) for rank in range(world)]

    (one,), two = run(1), run(2)
    for name, expected in one.items():
        value, image, text, *learnt = zip(*(rank[name] for rank in two), strict=True)
        torch.testing.assert_close(torch.stack(value).mean(), expected[0], rtol=1e-5, atol=0)
        # the loop averages gradients over processes
        for got, wanted in zip((torch.cat(image) / 2, torch.cat(text) / 2), expected[1:3], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        for got, wanted in zip(learnt, expected[3:], strict=True):
            torch.testing.assert_close(torch.stack(got).mean(0), wanted, rtol=1e-5, atol=1e-6)
