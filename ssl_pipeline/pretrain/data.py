"""Images for the loop: on the device as uint8 where they fit, else mapped from disk."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ON_DEVICE_BYTES = 2 * 1024**3
"""Packs up to this size are held in memory (or on the GPU) whole."""


class Images:
    """`images[indices]` -> float `[len(indices), channels, side, side]` in 0..1 on the device."""

    def __init__(self, array: np.ndarray, device: torch.device) -> None:
        self.array, self.device = array, device
        self.resident = torch.from_numpy(np.array(array)).to(device) if array.nbytes <= ON_DEVICE_BYTES else None

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, indices: Tensor) -> Tensor:
        if self.resident is not None:
            batch = self.resident[indices.to(self.device)]
        else:
            batch = torch.from_numpy(self.array[indices.numpy()]).to(self.device, non_blocking=True)
        return batch.float().div_(255).contiguous(memory_format=torch.channels_last)
