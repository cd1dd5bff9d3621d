"""Several processes on one batch: who they are, one batch norm over all of them, gradients averaged or sharded."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.gather import everyone
from ssl_pipeline.pretrain.compute import Objective, pick_device
from ssl_pipeline.recipe import Pretrain


@dataclass(frozen=True)
class Group:
    """The processes of a run; alone unless torchrun started this one."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, settings: Pretrain) -> Group:
        """Raises PipelineError where the machine has fewer GPUs than processes."""
        device = pick_device(settings.device)
        if "RANK" not in os.environ:
            return cls(device)
        local = int(os.environ["LOCAL_RANK"])
        if device.type == "cuda":
            if torch.cuda.device_count() < settings.processes:
                raise PipelineError(
                    f"pretrain.processes {settings.processes}: this machine has {torch.cuda.device_count()} GPUs; set it to that"
                )
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return cls(device, dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()

    def share(self, part: Tensor) -> Tensor:
        """This process's piece of the indices of a batch: no sample is in two."""
        return part.chunk(self.world)[self.rank]

    def agree(self, *flags: bool) -> list[bool]:
        """What the first process says: signals and clocks reach processes at different steps."""
        word = torch.tensor(flags)
        if self.world > 1:
            dist.broadcast(word, 0)
        return word.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """Over processes."""
        if self.world > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def collect(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values


def spread(objective: Objective, group: Group, settings: Pretrain) -> Objective:
    """Before the optimizer is made: batch norm over all processes and, where `shard` asks for it, FSDP2 on the encoder's
    blocks, which then hold a piece of the weights, gradients and optimizer state each."""
    if group.world == 1:
        return objective
    if group.device.type == "cuda":
        objective = convert_sync_batchnorm(objective)
    else:
        synchronise_norms(objective)
    if settings.shard:
        mesh = init_device_mesh(group.device.type, (group.world,))
        encoders = [module for module in objective.modules() if isinstance(module, Encoder)]  # a teacher's, too
        for block in [block for encoder in encoders for block in encoder.blocks()]:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    return objective


def replicate(objective: Objective, group: Group, settings: Pretrain) -> nn.Module:
    """What the loop calls: gradients are averaged over processes while they are computed."""
    if group.world == 1 or settings.shard:
        return objective
    return nn.parallel.DistributedDataParallel(
        objective, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=settings.accumulate == 1
    )


def no_exchange(replica: nn.Module, until_last: bool) -> AbstractContextManager[Any]:
    """Gradients of all pieces of an accumulated batch but the last stay in their process."""
    if isinstance(replica, nn.parallel.DistributedDataParallel):
        return replica.no_sync() if until_last else nullcontext()
    if isinstance(replica, FSDPModule):
        replica.set_requires_gradient_sync(not until_last)
    return nullcontext()


def synchronise_norms(model: nn.Module) -> None:
    """torch's SyncBatchNorm runs on GPUs alone; this gives batch norms on a CPU the same meaning, in place."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = partial(synchronised_norm, module)  # type: ignore[method-assign]


def synchronised_norm(norm: Any, x: Tensor) -> Tensor:
    """Batch norm of `[n, channels, ...]` with the statistics of all processes, each of which holds as many samples."""
    if norm.training:
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        exact = x.float()
        mean = everyone(exact.mean(axes)[None]).mean(0)
        centered = exact - mean.view(shape)
        var = everyone(centered.square().mean(axes)[None]).mean(0)
        if norm.track_running_stats:
            count = x.numel() // x.shape[1] * dist.get_world_size()
            with torch.no_grad():
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
                norm.num_batches_tracked += 1
        out = centered * (var + norm.eps).rsqrt().view(shape)
        if norm.weight is not None:
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
        out = out.to(x.dtype)
    else:
        out = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm.act(norm.drop(out)) if isinstance(norm, BatchNormAct2d) else out
