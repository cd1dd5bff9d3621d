"""What self-supervision must beat: a random encoder, the field's simple classic, and a supervised model on the same few labels.

They depend on the dataset, the encoder and the evaluation's settings, never on the pretext task: computed once for all
recipes that share those.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ssl_pipeline.encoders.encoder import Encoder, build
from ssl_pipeline.evaluate.classics import CLASSICS
from ssl_pipeline.evaluate.classification import Labels, Rows, probe_methods
from ssl_pipeline.evaluate.scores import Answer
from ssl_pipeline.evaluate.settings import Classification, Shots
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import Pack, rows_in, take
from ssl_pipeline.pretrain.compute import mixed_precision, pick_device
from ssl_pipeline.pretrain.loop import schedule
from ssl_pipeline.recipe import Recipe

BATCH_SIZE, LEARNING_RATE, PASSES = 32, 5e-3, 3


def all_baselines(
    recipe: Recipe, pack: Pack, labels: Labels, settings: Classification, step: Callable[[str], None]
) -> Rows:
    """Rows of every baseline; `step` hears of each before it starts."""
    results: Rows = []
    if classic := CLASSICS.get(recipe.encoder.kind):
        step("the simple classic")
        results += classic(recipe, pack, labels, settings)
    # the encoders that each draw's supervised training starts from
    starts = [fresh(recipe, pack, len(labels.names), draw) for draw in range(settings.draws)]
    step("random encoder")
    device = pick_device(recipe.pretrain.device)
    random: list[Any] = [deepcopy(start[0]).to(device) for start in starts]
    features = [{s: embed(one, pack.samples(s), recipe.pretrain) for s in SPLITS} for one in random]
    results += probe_methods("random encoder", features, labels, settings)[0]
    if "attentive" in settings.probes:
        from ssl_pipeline.evaluate.attentive import attentive_rows

        results += attentive_rows("random encoder", random, recipe, pack, labels, settings)
    if settings.supervised_steps:
        training = Training(settings.supervised_steps, settings.supervised_views)
        jobs = [Job(shots, draw, training) for shots in settings.shots for draw in range(settings.draws)]
        for job, found in trained_on_labels(recipe, pack, labels, jobs, starts, step, "supervised"):
            results.append(labels.scored("supervised", "supervised", job.shots, job.draw, found["test"]))
    return results


@dataclass(frozen=True)
class Training:
    """How a network is trained on labels: AdamW, warm-up and cosine, augmented views, the last step's weights."""

    steps: int
    """Fewest; every label is seen PASSES times at least."""
    views: Any
    learning_rate: float = LEARNING_RATE
    layer_decay: float | None = None
    """Factor of the learning rate from each block to the one before it (Clark et al. 2020, ELECTRA, section 3.1; Bao et al.
    2022, BEiT)."""


@dataclass(frozen=True)
class Job:
    """One training on one label subset."""

    shots: Shots
    draw: int
    training: Training


class Classifier(nn.Sequential):
    """An encoder, and a linear layer on its embedding."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        super().__init__(encoder, head)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """What timm's `layer_decay` asks: the depth of a parameter by its name; 0 before the encoder's first block, from 1 in
        the blocks, one more after the last."""
        encoders = [module for module in self.modules() if isinstance(module, Encoder)]
        blocks = next((found for one in encoders if (found := one.blocks())), [])
        inside = {id(weight): i for i, block in enumerate(blocks, 1) for weight in block.parameters()}
        depths, depth = {}, 0
        for name, weight in self.named_parameters():  # in the order in which inputs meet them
            depth = inside.get(id(weight), depth + (depth == len(blocks)))
            depths[name] = depth
        return depths.__getitem__


def fresh(recipe: Recipe, pack: Pack, classes: int, draw: int) -> Classifier:
    """The recipe's encoder with fresh weights and a linear classifier on it."""
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        encoder = build(recipe.encoder.without_weights(), pack.given)
        return Classifier(encoder, nn.Linear(encoder.dim, classes))


def trained_on_labels(
    recipe: Recipe,
    pack: Pack,
    labels: Labels,
    jobs: Sequence[Job],
    starts: Sequence[Classifier],
    step: Callable[[str], None],
    name: str,
) -> Iterator[tuple[Job, dict[str, Answer]]]:
    """Each job with its answers on the labelled samples of validation and test. `starts` has the network that each draw begins
    with, and keeps it."""

    def train(job: Job) -> dict[str, Answer]:
        step(f"{name}, {job.shots} labels a class, draw {job.draw + 1} of {len(starts)}")
        model = train_on_labels(recipe, pack, labels, job, deepcopy(starts[job.draw]))
        return {split: answered(recipe, pack, labels, model, split) for split in ("validation", "test")}

    # a step of a small encoder keeps few cores busy: several at once, unless they would share a stream of chance
    workers = 1 if draws_chance(starts[0]) else max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    with ThreadPoolExecutor(workers) as pool:
        yield from zip(jobs, pool.map(train, jobs), strict=True)


def draws_chance(model: nn.Module) -> bool:
    """Whether training draws from torch's global generator: dropout, of units or of paths."""
    return any(getattr(m, "p", 0) or getattr(m, "drop_prob", 0) for m in model.modules())


def train_on_labels(recipe: Recipe, pack: Pack, labels: Labels, job: Job, model: Classifier) -> Classifier:
    """`model`, all of it trained on the job's label subset."""
    training, device = job.training, pick_device(recipe.pretrain.device)
    autocast = mixed_precision(recipe.pretrain, device)
    model.requires_grad_(True).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(
        model, "adamw", lr=training.learning_rate, weight_decay=0.05, layer_decay=training.layer_decay
    )
    chosen = labels.subset(job.shots, job.draw)
    rows = labels.rows["train"][chosen]
    target = labels.target(chosen)
    stored, chance, shown = pack.samples("train"), generator(job.draw, "supervised", str(job.shots)), training.views
    encoder: Any = model[0]
    batch_size = min(BATCH_SIZE, len(rows))
    steps = max(training.steps, PASSES * len(rows) // batch_size)
    model.train()
    with torch.random.fork_rng(enabled=draws_chance(model)):
        if draws_chance(model):  # its trainings are one after the other
            torch.manual_seed(job.draw)
        for step in range(steps):
            for group in optimizer.param_groups:
                rate = training.learning_rate * group.get("lr_scale", 1.0)
                group["lr"] = rate * schedule(step, steps // 10, steps)
            batch = torch.randint(len(rows), (batch_size,), generator=chance)
            views = {k: v.to(device) for k, v in shown.draw((len(batch),), chance).items()} if shown else {}
            samples = {k: torch.from_numpy(v).to(device) for k, v in take(stored, rows[batch.numpy()]).items()}
            with autocast():
                with torch.no_grad():
                    inputs = encoder.read(samples)
                    inputs = shown.render(inputs, views) if shown else inputs
                logits = model(inputs)
            labels.loss(logits.float(), target[batch].to(device)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return model.eval()


def answered(recipe: Recipe, pack: Pack, labels: Labels, model: Classifier, split: str) -> Answer:
    """Of the labelled samples of a split."""
    probabilities = logits_of(recipe, pack, model, split)[labels.rows[split]].softmax(1).numpy()
    return Answer(np.array(labels.names)[probabilities.argmax(1)], probabilities)


@torch.inference_mode()
def logits_of(recipe: Recipe, pack: Pack, model: Classifier, split: str) -> torch.Tensor:
    """Of all samples of a split, float32 `[n, classes]` on the CPU."""
    device, stored, found = pick_device(recipe.pretrain.device), pack.samples(split), []
    encoder: Any = model[0]
    for at in range(0, rows_in(stored), 1024):
        samples = {k: torch.from_numpy(v).to(device) for k, v in take(stored, slice(at, at + 1024)).items()}
        found.append(model(encoder.read(samples)).float().cpu())
    return torch.cat(found)
