"""What tasks that predict items share: the softmax over all items, at the places of a batch that are asked for.

The full softmax, where SASRec compares with one sampled item: with sampled ones the same network gives scores that are too sure
of themselves and ranks worse (Petrov & Macdonald 2023, "gSASRec", section 3), and what BERT4Rec gained on SASRec was mostly
this loss (Klenitskiy & Vasilev 2023, "Turning Dross Into Gold Loss").

Items that a place sees are left out of its softmax: datasets hold no repeats, so they are never right, and evaluations
never recommend them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pipeline.pretext import gather


def loss_of_items(logits: Tensor, target: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the asked places of the whole batch, and the share whose item is among the first ten.

    logits `[batch, places, N]`; target `[batch, places]`, the number of an item (1 to N) or 0 where nothing is asked; seen
    bool, `[batch, places or 1, N]`. Nothing flows from places that are not asked.
    """
    logits = logits.float().masked_fill(seen, -torch.inf)
    asked = target > 0
    each = F.cross_entropy(logits.flatten(0, 1), target.flatten() - 1, ignore_index=-1, reduction="none")
    loss = mean_over_processes(each.sum(), asked.sum())
    with torch.no_grad():
        own = logits.gather(2, (target - 1).clamp(min=0)[..., None])
        hits = ((logits > own).sum(2) < 10) & asked
    return loss, hits.sum() / asked.sum().clamp(min=1)


def mean_over_processes(total: Tensor, count: Tensor) -> Tensor:
    """`total / count` of the whole batch, where each process knows of its own samples only and their counts differ. The loop
    averages over processes, so each one's share is its own total, times the number of processes, over everyone's count."""
    counts = gather.gather(count[None].float())  # [processes]
    return total * len(counts) / counts.sum().clamp(min=1)


def first_seen(items: Tensor, count: int) -> Tensor:
    """`[batch, places]` of item numbers -> `[batch, N]`: the place where each of the `count` items stands, or `places` where
    it does not."""
    batch, places = items.shape
    place = torch.arange(places, device=items.device).expand(batch, -1)
    never = torch.full((batch, count + 2), places, device=items.device)
    return never.scatter_reduce(1, items, place, "amin")[:, 1 : count + 1]
