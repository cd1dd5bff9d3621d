"""The encoder as it is deployed: uint8 images in, float32 embeddings out, preprocessing inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class DeployedEncoder(nn.Module):
    """uint8 images `[batch, channels, side, side]` in 0..255 -> float32 embedding `[batch, dim]`, for any batch >= 1.

    Holds a frozen fp32 copy of `encoder` (float images in 0..1 -> `[batch, dim]`; ints `channels`, `image_size`, `dim`)
    on the CPU in evaluation mode; the encoder itself stays as it was.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu().float().requires_grad_(False)
        self.channels: int = self.encoder.channels
        self.image_size: int = self.encoder.image_size
        self.dim: int = self.encoder.dim
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images.to(torch.float32) / 255)
