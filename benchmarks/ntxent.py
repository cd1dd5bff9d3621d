"""NT-Xent forward and backward, time and peak memory: `python -m benchmarks.ntxent [--json]`, two minutes.

Against the form of the tutorials (cosine similarity of all pairs by broadcasting), Lightly's and pytorch-metric-learning's.
Memory is a fresh process's highest resident size above what it had before; the tutorials' form is run where its arrays fit
into 2 GB.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.race import Turn, race, repeat, report

DIM, TEMPERATURE = 128, 0.2
SIZES = (256, 1024, 4096)
Loss = Callable[[Tensor, Tensor], Tensor]


def ours() -> Loss:
    from ssl_pipeline.pretext.contrast import nt_xent

    return lambda z1, z2: nt_xent(z1, z2, TEMPERATURE)


def lightly() -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda z1, z2: loss(torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2))


def tutorial() -> Loss:
    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        z, n = torch.cat([z1, z2]), len(z1)
        similarity = F.cosine_similarity(z[:, None], z[None], dim=2) / TEMPERATURE  # [2n, 2n, dim] on the way
        similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
        return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))

    return loss


CONTENDERS = {"ours": ours, "lightly": lightly, "pytorch-metric-learning": metric_learning, "tutorial": tutorial}


LARGEST_ARRAY: dict[str, Callable[[int], float]] = {
    "tutorial": lambda n: 4 * DIM * (2 * n) ** 2,  # the products of all pairs
    "pytorch-metric-learning": lambda n: 4 * (2 * n) ** 3,  # every positive pair against every negative one
}
"""Bytes; where they are more than 2 GB the peer is not run, and its memory is at least this."""


def main(as_json: bool) -> None:
    rows = []
    for n in SIZES:
        needs = {name: LARGEST_ARRAY[name](n) if name in LARGEST_ARRAY else 0 for name in CONTENDERS}
        made = {name: make() for name, make in CONTENDERS.items() if needs[name] < 2e9}
        pairs = pair(n)
        values = {name: float(loss(*pairs).detach()) for name, loss in made.items()}
        assert max(values.values()) - min(values.values()) < 1e-4, values
        rates = race({name: partial(timed, name, n) for name in made}, rounds=5, seconds=2)
        memory = {name: peak(name, n) if name in made else needs[name] / 2**20 for name in CONTENDERS}
        rows += [
            {
                "peer": peer, "n": n, "seconds": 1 / rates["ours"], "peer_seconds": 1 / rates[peer] if peer in made else None,
                "speedup": rates["ours"] / rates[peer] if peer in made else None, "megabytes": memory["ours"],
                "peer_megabytes": memory[peer], "memory_ratio": memory[peer] / max(1, memory["ours"]),
            }
            for peer in list(CONTENDERS)[1:]
        ]  # fmt: skip
    report(f"NT-Xent forward and backward of n pairs, {DIM} dimensions", rows, as_json)


def pair(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, DIM, requires_grad=True), torch.randn(n, DIM, requires_grad=True)


def timed(name: str, n: int) -> Turn:
    loss, pairs = CONTENDERS[name](), pair(n)
    return repeat(lambda: step(loss, *pairs), 1)


def step(loss: Loss, z1: Tensor, z2: Tensor) -> None:
    torch.autograd.grad(loss(z1, z2), (z1, z2))


def peak(name: str, n: int) -> float:
    """Megabytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ntxent", "--peak", name, str(n)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, n: int) -> None:
    loss = CONTENDERS[name]()
    step(loss, *pair(64))  # libraries and threads have taken what they take
    pairs = pair(n)
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
    before = resident("VmRSS")
    step(loss, *pairs)
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """Kilobytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print_peak(sys.argv[-2], int(sys.argv[-1]))
    else:
        main("--json" in sys.argv)
