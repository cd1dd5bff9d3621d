"""NT-Xent, the loss of SimCLR (Chen et al. 2020, eq. 1), in memory that is linear in the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pipeline.pretext.gather import gather, position

BLOCK = {"cpu": 2**20, "cuda": 2**24}
"""Similarities that are held at a time: 4 MB stay in a processor's cache, 64 MB keep a GPU busy."""


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of pairs `z1[i], z2[i]`, each `[n, dim]`, averaged over 2n anchors.

    Where processes share a batch, each averages over its own anchors against the views of all. In fp32 whatever the
    autocast: bf16's three digits are too few for a cosine that is divided by a small temperature.
    """
    n, rank = len(z1), position()[0]
    with torch.autocast(z1.device.type, enabled=False):
        anchors = F.normalize(torch.cat([z1, z2]).float(), dim=1)  # [2n, dim]
        # [world * 2n, dim]: a block of 2n a process; a copy, as torch.compile wants no tensor twice
        views = gather(anchors).clone()
        first = 2 * n * (rank if len(views) > len(anchors) else 0)
        itself = torch.arange(2 * n, device=anchors.device) + first
        return Contrast.apply(anchors, views, itself, itself.roll(n), temperature)


class Contrast(torch.autograd.Function):
    """Mean over anchors `[a, dim]` of -log softmax over views `[v, dim]` of anchor . view / temperature, at each anchor's
    partner `[a]`, the anchor itself `[a]` left out of the sum.

    The gradient is worked out in the forward pass, a block of anchors at a time, while the block's softmax is there:
    memory is one block of similarities, never all of them.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, views: Tensor, itself: Tensor, partner: Tensor, temperature: float
    ) -> Tensor:
        loss, *gradients = blockwise(anchors, views, itself, partner, temperature, any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        of_anchors, of_views = ctx.saved_tensors
        return gradients[0] * of_anchors, gradients[0] * of_views, None, None, None


def blockwise(
    anchors: Tensor, views: Tensor, itself: Tensor, partner: Tensor, temperature: float, differentiate: bool
) -> tuple[Tensor, ...]:
    """The loss and, where asked for, its gradients for anchors and views."""
    rows = max(1, BLOCK.get(anchors.device.type, 2**20) // len(views))
    loss, of_anchors, of_views = anchors.new_zeros(()), [], torch.zeros_like(views)
    for a, own, other in zip(anchors.split(rows), itself.split(rows), partner.split(rows), strict=True):
        p = (a / temperature) @ views.T  # [rows, v]
        p.scatter_(1, own[:, None], float("-inf"))
        positive, largest = p.gather(1, other[:, None]), p.amax(1, keepdim=True)
        p.sub_(largest).exp_()
        total = p.sum(1, keepdim=True)
        loss = loss + (total.log() + largest - positive).sum()
        if differentiate:
            p.div_(total * (len(anchors) * temperature))
            p.scatter_add_(1, other[:, None], p.new_full((len(a), 1), -1 / (len(anchors) * temperature)))
            of_anchors.append(p @ views)
            of_views.addmm_(p.T, a)
        del p  # before the next block is made
    return loss / len(anchors), torch.cat(of_anchors) if differentiate else anchors, of_views
