"""Samples for the loop, from wherever they fit: the same samples in the same order in every tier."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from ssl_pipeline.encoders.encoder import Batch
from ssl_pipeline.pretext.pack import Arrays, EncodedImages, rows_in, take
from ssl_pipeline.pretext.task import Labels

SHARE_OF_MEMORY = 0.25
"""Of the memory that is free on the device: what the samples may take."""
AHEAD = 3
"""Batches that are read or decoded while the device works."""


class Samples:
    """Rows of a pack's arrays, on the device.

    `tier` says where they are kept: `resident`, all of them on the device; `mapped`, on disk and read ahead; `decoded`, as
    image files that are decoded ahead on all cores.
    """

    def __init__(self, stored: Arrays, device: torch.device, processes: int = 1, tier: str | None = None) -> None:
        self.stored, self.device = stored, device
        sharing = processes if device.type == "cpu" else 1  # a GPU has one process
        size = sum(array.nbytes for array in stored.values())
        fits = size * sharing <= free_memory(device) * SHARE_OF_MEMORY
        encoded = any(isinstance(array, EncodedImages) for array in stored.values())
        self.tier = tier or ("resident" if fits else "decoded" if encoded else "mapped")
        whole = take(stored, slice(None)) if self.tier == "resident" else {}
        self.resident = {name: indexable(array, device) for name, array in whole.items()}

    def __len__(self) -> int:
        return rows_in(self.stored)

    def batches(self, parts: list[Tensor]) -> Iterator[Batch]:
        """The rows `[len(part), ...]` of every array for the indices in each part, in order."""
        if self.resident:
            for part in placed(parts, self.device):
                yield {name: array[part] for name, array in self.resident.items()}
            return
        with ThreadPoolExecutor(1, "read ahead") as reader:
            coming = deque(reader.submit(self.read, part) for part in parts[:AHEAD])
            try:
                for i in range(len(parts)):
                    batch = coming.popleft().result()
                    if i + AHEAD < len(parts):
                        coming.append(reader.submit(self.read, parts[i + AHEAD]))
                    yield {name: array.to(self.device, non_blocking=True) for name, array in batch.items()}
            finally:
                reader.shutdown(cancel_futures=True)

    def read(self, part: Tensor) -> Batch:
        batch = {name: torch.from_numpy(array[part.numpy()]) for name, array in self.stored.items()}
        return {name: array.pin_memory() for name, array in batch.items()} if self.device.type == "cuda" else batch


def indexable(array: np.ndarray, device: torch.device) -> Tensor:
    """On the device; 16-bit tokens as 32-bit numbers where they go to a GPU, which cannot index the former."""
    wide = device.type != "cpu" and array.dtype == np.uint16
    return torch.from_numpy(array.astype(np.int32) if wide else array).to(device)


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
