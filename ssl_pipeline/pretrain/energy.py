"""The energy that training takes, where the machine counts it: processor packages (RAPL, through Linux's powercap) and the GPU
(NVML). Packages are counted whole, with whatever else they did meanwhile. Nothing is estimated from a data sheet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Joules since it was made, on counters that go round after some minutes of full power: read it more often than that."""

    def __init__(self, device: torch.device, packages: bool = True, powercap: Path = POWERCAP) -> None:
        self.counters = [*(processor_packages(powercap) if packages else []), *gpu(device)]
        self.last = [read() for read, _ in self.counters]
        self.total = 0

    def joules(self) -> float | None:
        """None where nothing is counted."""
        for number, (read, size) in enumerate(self.counters):
            now = read()
            self.total += (now - self.last[number]) % size
            self.last[number] = now
        return self.total / 1e6 if self.counters else None


Counter = tuple[Callable[[], int], int]
"""What reads microjoules, and where they begin again at 0."""


def processor_packages(powercap: Path) -> list[Counter]:
    """Those that may be read: since 2020 Linux shows them to root alone, unless it is told otherwise."""
    found: list[Counter] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # not the parts of a package
            read = partial(number_in, zone / "energy_uj")
            try:
                read()
                found.append((read, number_in(zone / "max_energy_range_uj") + 1))
            except (OSError, ValueError):
                continue
    return found


def number_in(file: Path) -> int:
    return int(file.read_text())


def gpu(device: torch.device) -> list[Counter]:
    """This GPU's counter, since Volta."""
    if device.type != "cuda":
        return []
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []
    return [(lambda: 1000 * pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1 << 62)]
