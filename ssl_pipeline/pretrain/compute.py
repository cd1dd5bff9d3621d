"""How a step is computed: device, precision, memory layout, compilation. None of it changes what is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.recipe import Pretrain

WORTH_COMPILING = {"cuda": 3e16, "cpu": 3e14}
"""Operations of a whole run from which compiling wins: a minute of an H200, where it saves a fifth; twenty minutes of two
cores, where it saves a twentieth of small images' time and nothing of large ones'."""
SMALL_ON_CPU = 64
"""Pixels from which a CPU spends its time in convolutions that compilation does not change (at 96 it lost a tenth)."""


class Objective(nn.Module):
    """All that one step differentiates, as one module: views, encoder, head and loss."""

    def __init__(self, task: PretextTask, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.task, self.encoder, self.head = task, encoder, head

    def forward(self, images: Tensor, labels: Labels) -> dict[str, Any]:
        """uint8 `[batch, channels, side, side]` and their labels -> what the task's step returns."""
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        return self.task.step(self.encoder, self.head, images.to(dtype) / 255, labels)


def worth_compiling(settings: Pretrain, task: PretextTask, encoder: Encoder, images: int, device: torch.device) -> bool:
    """Whether a run over `images` training images wins back the minute that torch.compile takes. Decided by counted
    operations, not by a clock: a resumed run must decide the same."""
    if settings.compile != "auto":
        return settings.compile
    if device.type not in WORTH_COMPILING or (device.type == "cpu" and encoder.image_size > SMALL_ON_CPU):
        return False
    side, was_training = encoder.image_size, encoder.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()(torch.zeros(1, encoder.channels, side, side, device=device))
    encoder.train(was_training)
    # the backward pass costs twice the forward
    total = 3 * counter.get_total_flops() * task.encoder_passes * images * settings.epochs
    return total >= WORTH_COMPILING[device.type]


def compile_step(model: nn.Module) -> nn.Module:
    """The module compiled for one shape of batch; what cannot be compiled runs as it is, with a line in the log."""
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.fallback_random = True  # the same random numbers as without compilation
    late.settle()
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def pick_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def precision_name(settings: Pretrain, device: torch.device) -> str:
    """auto means bf16 where the hardware multiplies it natively."""
    if settings.precision != "auto":
        return settings.precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native and device.type in ("cuda", "cpu") else "fp32"


def mixed_precision(settings: Pretrain, device: torch.device) -> Callable[[], Any]:
    on = precision_name(settings, device) == "bf16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=on)
