"""NT-Xent forward and backward, time and peak memory: `python -m benchmarks.ntxent [--json]`, two minutes.

Against the form of the tutorials (cosine similarity of all pairs by broadcasting), Lightly's and pytorch-metric-learning's.
Memory is a fresh process's highest resident size above what it had before; the tutorials' form is run where its arrays fit
into 2 GB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.race import race, repeat, report

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


def main(as_json: bool) -> None:
    rows = []
    for n in SIZES:
        made = {name: make() for name, make in CONTENDERS.items() if name != "tutorial" or (2 * n) ** 2 * DIM * 4 < 2e9}
        pairs = pair(n)
        values = {name: float(loss(*pairs)) for name, loss in made.items()}
        assert max(values.values()) - min(values.values()) < 1e-4, values
        rates = race({name: repeat(lambda f=loss: step(f, *pairs), 1) for name, loss in made.items()}, 3, 1.0)
        memory = {name: peak(name, n) for name in made}
        rows += [
            {
                "peer": peer, "n": n, "seconds": 1 / rates["ours"], "peer_seconds": 1 / rates[peer],
                "speedup": rates["ours"] / rates[peer], "megabytes": memory["ours"], "peer_megabytes": memory[peer],
                "memory_ratio": memory[peer] / memory["ours"],
            }
            for peer in list(made)[1:]
        ]  # fmt: skip
    report(f"NT-Xent forward and backward of n pairs, {DIM} dimensions", rows, as_json)


def pair(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, DIM, requires_grad=True), torch.randn(n, DIM, requires_grad=True)


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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(loss, *pairs)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print_peak(sys.argv[-2], int(sys.argv[-1]))
    else:
        main("--json" in sys.argv)
