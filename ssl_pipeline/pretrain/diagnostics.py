"""Is the encoder learning? Numbers from the embeddings of a batch, and the alarm that stops a run that cannot recover."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_std(embedding: Tensor) -> float:
    """Deviation of the L2-normalised embeddings `[n, dim]`, averaged over dimensions and scaled so that 1 is a uniform
    spread over the sphere and 0 a single point (Chen & He 2021, SimSiam, section 4.1)."""
    z = F.normalize(embedding.float(), dim=1)
    return float(z.std(0).mean() * math.sqrt(z.shape[1]))


def effective_rank(embedding: Tensor) -> float:
    """exp of the entropy of the singular values of `[n, dim]`, centred (Roy & Vetterli 2007): 1 is a line."""
    if not embedding.isfinite().all():
        return math.nan
    z = embedding.cpu().double()
    z = z - z.mean(0)
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z  # its eigenvalues are the squares, for a tenth of the time
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(p * torch.log(p.clamp(min=1e-12))).sum()))


class TrainingAlarm(Exception):
    """Training cannot go on usefully; the message says why and what to change."""


class Alarm:
    """Watches the rows of the training curve; three bad ones in a row are a collapse, one NaN is enough."""

    def __init__(self) -> None:
        self.collapsed_rows = 0

    def check(self, row: dict[str, float]) -> None:
        """Raises TrainingAlarm."""
        step = int(row["step"])
        if not math.isfinite(row["loss"]) or not math.isfinite(row["gradient_norm"]):
            raise TrainingAlarm(
                f"the loss is {row['loss']} and the gradient norm {row['gradient_norm']} at step {step}: lower "
                "pretrain.learning_rate, lengthen pretrain.warmup_epochs or set pretrain.precision to fp32"
            )
        collapsed = row["embedding_std"] < 0.01 or row["effective_rank"] < 1.05
        self.collapsed_rows = self.collapsed_rows + 1 if collapsed else 0
        if self.collapsed_rows == 3:
            raise TrainingAlarm(
                f"the embeddings collapsed to a point or a line at step {step} (deviation {row['embedding_std']:.4f}, "
                f"effective rank {row['effective_rank']:.2f}): lower pretrain.learning_rate or raise pretrain.batch_size"
            )


def describe(out: dict[str, Any], norm: Tensor) -> dict[str, float]:
    """A step's output and gradient norm as plain numbers."""
    embedding = out["embedding"].detach()[:512]
    scalars = {name: float(value) for name, value in out.items() if name not in ("embedding", "loss")}
    spread = {"embedding_std": embedding_std(embedding), "effective_rank": effective_rank(embedding)}
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
    return scalars | spread | {"gradient_norm": float(whole)}


class Clock:
    """Samples a second, and the share of the time that was spent waiting for data."""

    def __init__(self) -> None:
        self.started, self.waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def lap(self, samples: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed, waited = now - self.started, self.waited
        self.started, self.waited = now, 0.0
        return {"samples_per_second": samples / elapsed, "data_wait_share": waited / elapsed}
