"""Attention of transformers' models as each device computes it fastest.

On a CPU, torch's fused form takes four times as long as two matrix products with a softmax between them, forwards and
backwards in bf16, up to 512 tokens at least; what it saves is memory, which blocks of that length do not lack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "fastest_on_device"
LONG = 1024
"""Tokens from which a CPU takes the fused form, too."""


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`[batch, heads, length, width]` three times, and a bool mask that broadcasts to `[batch, heads, length, length]`, True
    where a token may be looked at -> `[batch, length, heads, width]`"""
    if query.device.type != "cpu" or query.shape[2] > LONG or options.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scores = torch.matmul(query * options["scaling"], key.transpose(2, 3))
    if attention_mask is not None:
        # not minus infinity: padding that sees nothing must not become NaN
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    return torch.matmul(F.softmax(scores, dim=-1), value).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
