"""How a step is computed: device, precision, memory layout, compilation. None of it changes what is computed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.recipe import Pretrain

WORTH_COMPILING = {"cuda": 3e16, "cpu": 3e14}
"""Operations of a whole run from which compiling wins: five minutes of an H200, where it saves a fifth; twenty minutes of
two cores, where it saves a twentieth of small images' time and nothing of large ones'."""
WORTH_COMPILING_INFERENCE = {"cuda": 3e16, "cpu": 5e13}
"""Without gradients batch norms fold into convolutions, which saves a quarter on a CPU at every size."""
SMALL_ON_CPU = 64
"""Pixels from which a CPU spends its time in convolutions that compilation does not change (at 96 it lost a tenth)."""


@torch.no_grad()
def render(task: PretextTask, encoder: Encoder, batch: Batch, labels: Labels) -> Any:
    """Stored samples and their labels -> what the task shows its encoder, in the autocast's precision.

    Compiled by itself: in one graph with the step, parts of it were computed again in the backward pass."""
    return task.render(encoder, encoder.read(batch), labels)


class Objective(nn.Module):
    """All that one step differentiates, as one module: encoder, head and loss."""

    def __init__(self, task: PretextTask, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.task, self.encoder, self.head = task, encoder, head

    def forward(self, views: Any, labels: Labels) -> dict[str, Any]:
        return self.task.step(self.encoder, self.head, views, labels)


def worth_compiling(
    settings: Pretrain, task: PretextTask, encoder: Encoder, samples: int, device: torch.device
) -> bool:
    """Whether a run over `samples` training samples wins back the minute that torch.compile takes. Decided by counted
    operations, not by a clock: a resumed run must decide the same."""
    if settings.compile != "auto":
        return settings.compile
    if device.type not in WORTH_COMPILING or (device.type == "cpu" and encoder.image_size > SMALL_ON_CPU):
        return False
    # the backward pass costs twice the forward
    total = 3 * operations(encoder) * task.encoder_passes * samples * settings.epochs
    return total >= WORTH_COMPILING[device.type]


def operations(encoder: Encoder) -> int:
    """Multiplications and additions of one sample's way through the encoder."""
    was_training, example = encoder.training, {k: v.to(encoder.device) for k, v in encoder.example(1).items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()(encoder.read(example))
    encoder.train(was_training)
    return counter.get_total_flops()


def fast_forward(encoder: Encoder, settings: Pretrain, samples: int, batch_size: int) -> Callable[[Batch], Tensor]:
    """Stored samples `[n, ...]` -> `[n, dim]`, without gradients, in the run's precision; compiled with weights frozen where
    so many samples win its time back, for whole batches."""
    device = encoder.device
    autocast = mixed_precision(settings, device)
    encoder = encoder.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def plain(batch: Batch) -> Tensor:
        with torch.inference_mode(), autocast():
            inputs = encoder.read({name: array.to(device) for name, array in batch.items()})
            if isinstance(inputs, Tensor) and inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            return encoder(inputs).float()

    enough = WORTH_COMPILING_INFERENCE.get(device.type, math.inf)
    if settings.compile is False or (settings.compile == "auto" and samples * operations(encoder) < enough):
        return plain
    torch._dynamo.config.suppress_errors = True
    compiled = torch.compile(plain, dynamic=False, options={"freezing": True})
    return lambda batch: (compiled if len(next(iter(batch.values()))) == batch_size else plain)(batch)


def compile_step(part: Callable[..., Any]) -> Callable[..., Any]:
    """A module or function compiled for one shape of batch; what cannot be compiled runs as it is, with a line in the log."""
    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.fallback_random = True  # the same random numbers as without compilation
    late.settle()
    return torch.compile(part, dynamic=False)


def pick_device(name: str) -> torch.device:
    """auto is CUDA where there is one. Ready for heavy work, if it is the CPU."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def seed_device(device: torch.device, seed: int) -> None:
    """Seeds what a step draws from. On a CPU without torch.manual_seed's round through every other kind of device, which
    takes a hundredth of a small step."""
    (torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed)(seed)


@cache
def keep_freed_memory() -> None:
    """Lets this process reuse large blocks that it frees. glibc gives them back to the kernel, which then zeroes fresh pages
    for every activation of every step: an eighth of a step at 96 pixels, a quarter at 32. A GPU's allocator keeps its own."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # malloc.h
    mallopt(arena_max, 1)  # the arenas of further threads would give memory back all the same
    if not mallopt(mmap_threshold, 2**30):
        mallopt(mmap_threshold, 2**25)  # the most that glibc took before 2.35
    mallopt(trim_threshold, 2**31 - 1)


def precision_name(settings: Pretrain, device: torch.device) -> str:
    """auto means bf16 where the hardware multiplies it natively."""
    if settings.precision != "auto":
        return settings.precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native and device.type in ("cuda", "cpu") else "fp32"


def mixed_precision(settings: Pretrain, device: torch.device) -> Callable[[], Any]:
    on = precision_name(settings, device) == "bf16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=on)
