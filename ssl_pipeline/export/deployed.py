"""The encoder as it is deployed: stored numbers in (such as uint8 images), float32 embeddings out, preprocessing inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class DeployedEncoder(nn.Module):
    """One array of samples as the pack stores them, `[batch, ...]` -> float32 embedding `[batch, dim]`, for any batch >= 1.

    Holds a frozen fp32 copy of `encoder` on the CPU in evaluation mode; the encoder itself stays as it was.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu().float().requires_grad_(False)
        self.takes: str = self.encoder.takes
        self.dim: int = self.encoder.dim
        self.eval()

    def forward(self, stored: Tensor) -> Tensor:
        return self.encoder(self.encoder.read({self.takes: stored}))

    def example(self, count: int) -> Tensor:
        """Random samples in stored form, in a type that every runtime has."""
        stored = self.encoder.example(count, torch.Generator().manual_seed(count))[self.takes]
        return stored.to(torch.int32) if stored.dtype == torch.uint16 else stored
