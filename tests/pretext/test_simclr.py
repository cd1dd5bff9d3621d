from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss

from ssl_pipeline.pretext.contrast import nt_xent


def by_the_paper(z1, z2, temperature):
    """Equation 1, written as loops in float64."""
    z = [row / row.norm() for row in torch.cat([z1, z2]).double()]
    n, total = len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_equals_the_papers_equation_with_gradients(temperature):
    torch.manual_seed(0)
    pairs = [torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    expected = by_the_paper(*pairs, temperature)
    expected_grads = torch.autograd.grad(expected, pairs)
    ours = nt_xent(*pairs, temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, want in zip(torch.autograd.grad(ours, pairs), expected_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_equals_lightly_with_gradients():
    torch.manual_seed(1)
    pairs = [torch.randn(64, 32, requires_grad=True) for _ in range(2)]
    ours, theirs = nt_xent(*pairs, 0.2), NTXentLoss(temperature=0.2)(*pairs)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for got, want in zip(torch.autograd.grad(ours, pairs), torch.autograd.grad(theirs, pairs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_is_computed_in_fp32_inside_bf16_autocast():
    torch.manual_seed(2)
    z1, z2 = torch.randn(32, 16), torch.randn(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z1, z2, 0.1)
    assert inside.dtype == torch.float32
    assert inside.item() == nt_xent(z1, z2, 0.1).item()


def test_a_collapsed_encoder_has_the_collapse_loss(make_recipe):
    same = torch.ones(50, 8)
    assert nt_xent(same, same, 0.2).item() == pytest.approx(make_recipe("simclr").pretext.collapse_loss(50), rel=1e-5)
    assert make_recipe("simclr").pretext.collapse_loss(50) == pytest.approx(math.log(99))
