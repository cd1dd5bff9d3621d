"""The encoder as it is deployed: uint8 images in, float32 embeddings out, preprocessing inside."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_pipeline.store import write_json


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


def save_folder(encoder: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Writes `encoder.safetensors` and then `encoder.json` (`config`) into `folder`; each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".encoder.safetensors.{os.getpid()}"
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()},
            fresh,
        )
        os.replace(fresh, folder / "encoder.safetensors")
    finally:
        fresh.unlink(missing_ok=True)
    write_json(folder / "encoder.json", config)
