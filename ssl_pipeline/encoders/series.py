"""The encoder of time series: normalisation, patches, a transformer, and its pooling, in one module.

Nie, Nguyen, Sinthong, Kalagnanam 2023, "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers" (PatchTST),
section 3.1: patches along time that do not overlap, as self-supervised there; channels share weights; instance
normalisation as in Kim et al. 2022 (RevIN). Differences: layer norm before, not batch norm after attention, and patches of
all channels together where the settings say `mixed`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.encoders.lines import draw_lines
from ssl_pipeline.encoders.settings_series import SeriesEncoder

SMALLEST = 1e-5
"""Added to a window's variance: a constant channel becomes zeros."""


class PatchTST(Encoder):
    """values `[batch, channels, length]` -> embedding `[batch, dim]`: mean and largest of the tokens of a channel (of all
    channels, where they are mixed), channel after channel; then, with instance normalisation, the channels' means and the
    logarithms of their deviations."""

    takes = "values"
    mean: Tensor
    std: Tensor

    def __init__(self, settings: SeriesEncoder, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.channels, self.length, self.patch = len(mean), settings.length, settings.patch
        self.mixed, self.instance = settings.channels == "mixed", settings.normalize == "instance"
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1))
        width = settings.width
        self.lanes = 1 if self.mixed else self.channels
        self.patch_dim = self.patch * (self.channels if self.mixed else 1)
        self.embed = nn.Linear(self.patch_dim, width)
        self.position = nn.Parameter(torch.empty(1, settings.tokens, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.transformer = nn.Sequential(*[Block(width, settings.heads, qkv_bias=True) for _ in range(settings.depth)])
        self.norm = nn.LayerNorm(width)
        self.dim = 2 * width * self.lanes + (2 * self.channels if self.instance else 0)

    def read(self, batch: Batch) -> Tensor:
        """float32 `[batch, channels, length]`, each channel with the training split's mean 0 and deviation 1."""
        return (batch["values"].float() - self.mean) / self.std

    def forward(self, inputs: Tensor) -> Tensor:
        patches, level = self.patchify(inputs)
        return self.pool(self.encode(patches), level)

    def tokens(self, inputs: Tensor) -> Tensor:
        """Of all lanes, one after the other."""
        return self.encode(self.patchify(inputs)[0]).flatten(1, 2)

    def patchify(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, channels, length]` -> patches `[batch, lanes, tokens, patch_dim]`, normalised, where a lane is a channel, or
        all of them where they are mixed; and what normalisation took away, `[batch, 0 or 2 * channels]`."""
        inputs = inputs.float()
        level = inputs.new_zeros(inputs.shape[0], 0)
        if self.instance:
            mean = inputs.mean(2, keepdim=True)
            deviation = ((inputs - mean).square().mean(2, keepdim=True) + SMALLEST).sqrt()
            inputs = (inputs - mean) / deviation
            level = torch.cat([mean, deviation.log()], 1).flatten(1)
        patches = inputs.unflatten(2, (-1, self.patch))  # [batch, channels, tokens, patch]
        if self.mixed:
            patches = patches.transpose(1, 2).flatten(2).unsqueeze(1)  # [batch, 1, tokens, channels * patch]
        return patches, level

    def encode(self, patches: Tensor) -> Tensor:
        """`[batch, lanes, tokens, patch_dim]` -> tokens `[batch, lanes, tokens, width]`; lanes do not see each other."""
        tokens = self.embed(patches.flatten(0, 1)) + self.position
        return self.norm(self.transformer(tokens)).unflatten(0, (-1, self.lanes))

    def pool(self, tokens: Tensor, level: Tensor) -> Tensor:
        """Tokens and level -> `[batch, dim]`."""
        tokens = tokens.float()
        return torch.cat([tokens.mean(2).flatten(1), tokens.amax(2).flatten(1), level], 1)

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        """Random walks about the training split's mean."""
        walk = torch.randn(count, self.channels, self.length, generator=generator).cumsum(2) / self.length**0.5
        return {"values": self.mean.cpu() + self.std.cpu() * walk}

    def show(self, batch: Batch) -> np.ndarray:
        """Line pictures `[batch, 3, height, width]`."""
        return self.sketch(self.read(batch))

    def sketch(self, inputs: Tensor) -> np.ndarray:
        """Line pictures of what `read` returns, from -3 to 3 deviations; NaN is left out."""
        return draw_lines(inputs.float().cpu().numpy())

    def blocks(self) -> list[nn.Module]:
        return list(self.transformer)


def build(settings: SeriesEncoder, facts: dict[str, Any]) -> PatchTST:
    """The encoder that a recipe's `encoder` part describes, with fresh weights from torch's global generator. Of the pack's
    facts it takes the channels' `mean` and `std`."""
    return PatchTST(settings, facts["mean"], facts["std"])
