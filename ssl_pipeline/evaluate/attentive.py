"""The attentive probe: one learnt query that attends to the frozen encoder's tokens, and a linear layer.

Chen et al. 2024, "Context Autoencoder for Self-Supervised Representation Learning" (CAE), section 4.2; Bardes et al. 2024,
"Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA), section 5. A layer norm on the tokens
stands in for CAE's batch norm. Probes of several learning rates are trained beside each other on the same tokens, and the
validation split chooses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pipeline.evaluate.baselines import PASSES
from ssl_pipeline.evaluate.classification import Labels, Rows
from ssl_pipeline.evaluate.scores import Answer
from ssl_pipeline.evaluate.settings import Classification, Shots
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import Pack, rows_in, take
from ssl_pipeline.pretrain.compute import mixed_precision, pick_device
from ssl_pipeline.pretrain.loop import schedule

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

STEPS, BATCH, HEADS = 300, 64, 8
CHUNK = 256
"""Samples whose tokens are computed at a time."""
MOST_BYTES = 1_000_000_000
"""Of the tokens of a split that are kept."""
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


class AttentiveProbe(nn.Module):
    """tokens `[batch, places, dim]`, zero where there is padding -> logits `[batch, classes]`"""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, math.gcd(dim, HEADS), batch_first=True)
        self.classify = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        padding, normal = (tokens == 0).all(2), self.norm(tokens)
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, normal, normal, key_padding_mask=padding, need_weights=False)
        return self.classify(pooled[:, 0])


def attentive_rows(
    method: str, encoders: list[Any], recipe: Recipe, pack: Pack, labels: Labels, settings: Classification
) -> Rows:
    """The probe at every shot count and draw. `encoders` is one, or one for each draw. Raises PipelineError where an encoder has
    no tokens."""
    device, rows = pick_device(recipe.pretrain.device), []
    for draw in range(settings.draws):
        if draw < len(encoders):
            tokens = Tokens(encoders[draw].to(device).eval(), recipe, pack)
        for shots in settings.shots:
            answer = attended(tokens, labels, shots, draw)
            rows.append(labels.scored(method, "attentive", shots, draw, answer))
    return rows


class Tokens:
    """The frozen encoder's tokens of samples; of a whole split at once, and kept, where they are not too many."""

    def __init__(self, encoder: Any, recipe: Recipe, pack: Pack) -> None:
        self.encoder, self.pack, self.autocast = encoder, pack, mixed_precision(recipe.pretrain, encoder.device)
        self.kept: dict[str, Tensor | None] = {}

    def __call__(self, split: str, rows: np.ndarray) -> Tensor:
        """fp32 `[len(rows), places, dim]`, zero at padding"""
        if split not in self.kept:
            self.kept[split] = self.whole(split)
        kept = self.kept[split]
        return self.computed(split, rows) if kept is None else kept[torch.from_numpy(rows).to(kept.device)]

    def whole(self, split: str) -> Tensor | None:
        parts, count = [], rows_in(self.pack.samples(split))
        for at in range(0, count, CHUNK):
            parts.append(self.computed(split, np.arange(at, min(at + CHUNK, count))))
            if 4 * parts[0][0].numel() * count > MOST_BYTES:
                return None
        longest = max(part.shape[1] for part in parts)
        return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

    @torch.no_grad()
    def computed(self, split: str, rows: np.ndarray) -> Tensor:
        stored = take(self.pack.samples(split), rows)
        with self.autocast():
            samples = {name: torch.from_numpy(array).to(self.encoder.device) for name, array in stored.items()}
            return self.encoder.tokens(self.encoder.read(samples)).float()


def attended(tokens: Tokens, labels: Labels, shots: Shots, draw: int) -> Answer:
    """On the test split, of the probe whose learning rate is best on validation; the first of equals."""
    chosen = labels.subset(shots, draw)
    rows, device = labels.rows["train"][chosen], tokens.encoder.device
    target = torch.from_numpy(np.searchsorted(labels.names, labels.classes["train"][chosen])).to(device)
    probes = fresh_probes(tokens("train", rows[:1]).shape[2], len(labels.names), draw).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(p.parameters()), "lr": rate, "peak": rate}
            for p, rate in zip(probes, LEARNING_RATES, strict=True)
        ],
        weight_decay=0.01,
    )
    chance, batch_size = generator(draw, "attentive", str(shots)), min(BATCH, len(rows))
    steps = max(STEPS, PASSES * len(rows) // batch_size)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(step, steps // 10, steps)
        batch = torch.randint(len(rows), (batch_size,), generator=chance)
        seen, asked = tokens("train", rows[batch.numpy()]), target[batch.to(device)]
        # no probe's gradient depends on another's loss
        torch.stack([F.cross_entropy(probe(seen), asked) for probe in probes]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    validation = answers(probes, tokens, "validation", labels)
    names = np.array(labels.names)
    right = [float((names[p.argmax(1)] == labels.classes["validation"]).mean()) for p in validation]
    best = nn.ModuleList([probes[right.index(max(right))]])
    (probabilities,) = answers(best, tokens, "test", labels)
    return Answer(names[probabilities.argmax(1)], probabilities)


def fresh_probes(dim: int, classes: int, draw: int) -> nn.ModuleList:
    """One for each learning rate, all with the same weights."""
    probes = []
    for _ in LEARNING_RATES:
        with torch.random.fork_rng():
            torch.manual_seed(draw)
            probes.append(AttentiveProbe(dim, classes))
    return nn.ModuleList(probes)


@torch.no_grad()
def answers(probes: nn.ModuleList, tokens: Tokens, split: str, labels: Labels) -> list[np.ndarray]:
    """For each probe probabilities `[n, classes]` of a split's labelled samples."""
    found: list[list[Tensor]] = [[] for _ in probes]
    rows = labels.rows[split]
    for at in range(0, len(rows), CHUNK):
        seen = tokens(split, rows[at : at + CHUNK])
        for one, probe in zip(found, probes, strict=True):
            one.append(probe(seen).softmax(1).cpu())
    return [torch.cat(one).numpy() for one in found]
