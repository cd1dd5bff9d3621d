"""Images for the loop, from wherever they fit: the same samples in the same order in every tier."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from ssl_pipeline.pretext.pack import EncodedImages
from ssl_pipeline.pretext.pack import Images as Stored
from ssl_pipeline.pretext.task import Labels

SHARE_OF_MEMORY = 0.25
"""Of the memory that is free on the device: what the images may take."""
AHEAD = 3
"""Batches that are read or decoded while the device works."""


class Images:
    """A split's images, uint8, on the device.

    `tier` says where they are kept: `resident`, all of them on the device; `mapped`, decoded on disk and read ahead;
    `decoded`, as files that are decoded ahead on all cores.
    """

    def __init__(self, stored: Stored, device: torch.device, processes: int = 1, tier: str | None = None) -> None:
        self.stored, self.device = stored, device
        sharing = processes if device.type == "cpu" else 1  # a GPU has one process
        fits = stored.nbytes * sharing <= free_memory(device) * SHARE_OF_MEMORY
        self.tier = tier or ("resident" if fits else "decoded" if isinstance(stored, EncodedImages) else "mapped")
        self.resident = torch.from_numpy(np.array(stored[:])).to(device) if self.tier == "resident" else None

    def __len__(self) -> int:
        return len(self.stored)

    def batches(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """`[len(part), channels, side, side]` for the indices in each part, in order."""
        if self.resident is not None:
            yield from (self.resident[part] for part in placed(parts, self.device))
            return
        with ThreadPoolExecutor(1, "read ahead") as reader:
            coming = deque(reader.submit(self.read, part) for part in parts[:AHEAD])
            try:
                for i in range(len(parts)):
                    batch = coming.popleft().result()
                    if i + AHEAD < len(parts):
                        coming.append(reader.submit(self.read, parts[i + AHEAD]))
                    yield batch.to(self.device, non_blocking=True)
            finally:
                reader.shutdown(cancel_futures=True)

    def read(self, part: Tensor) -> Tensor:
        batch = torch.from_numpy(self.stored[part.numpy()])
        return batch.pin_memory() if self.device.type == "cuda" else batch


def placed(parts: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The parts on the device, in one copy: a copy a step would make the processor wait for the step before."""
    if parts:
        yield from torch.cat(parts).to(device).split([len(part) for part in parts])


def label_batches(labels: Labels, parts: list[Tensor], device: torch.device) -> Iterator[Labels]:
    """The labels of the samples in each part, on the device."""
    labels = {name: value.to(device) for name, value in labels.items()}
    for part in placed(parts, device):
        yield {name: value[part] for name, value in labels.items()}


def free_memory(device: torch.device) -> int:
    """Bytes, of the GPU or of the machine; a container's limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free
