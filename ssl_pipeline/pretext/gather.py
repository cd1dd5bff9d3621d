"""What a loss over the whole batch needs where the batch is spread over processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def position() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    alone = not (dist.is_available() and dist.is_initialized())
    return (0, 1) if alone else (dist.get_rank(), dist.get_world_size())


def gather(z: Tensor) -> Tensor:
    """`[n, ...]` of every process -> `[world * n, ...]` in the order of ranks, the same in all of them.

    Gradients flow back to the process that a row came from, summed over the processes that used it. The loop averages
    gradients over processes, so a loss of all rows, and the mean of losses of one process's rows against all, both get
    the gradient that one process with the whole batch would. Without gradients (validation) it is z: ranks then see
    different batches.
    """
    return everyone(z) if torch.is_grad_enabled() else z


def everyone(z: Tensor) -> Tensor:
    """As `gather`, whether there are gradients or not."""
    return z if position()[1] == 1 else Gather.apply(z)


class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        rows = z.new_empty(len(z) * dist.get_world_size(), *z.shape[1:])
        dist.all_gather_into_tensor(rows, z.contiguous())
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rows = gradients[0].contiguous()
        own = rows.new_empty(len(rows) // dist.get_world_size(), *rows.shape[1:])
        dist.reduce_scatter_tensor(own, rows)
        return own
