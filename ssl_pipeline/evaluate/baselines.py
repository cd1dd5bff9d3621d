"""What self-supervision must beat: a random encoder, the field's simple classic, and a supervised model on the same few labels.

They depend on the dataset, the encoder and the evaluation's settings, never on the pretext task: computed once for all
recipes that share those.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.evaluate.classics import CLASSICS
from ssl_pipeline.evaluate.classification import Features, Labels, probe_methods
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
) -> list[dict[str, Any]]:
    """Rows (method, probe, shots, draw, accuracy) of every baseline; `step` hears of each before it starts."""
    classes = len(labels.names)
    results: list[dict[str, Any]] = []
    if classic := CLASSICS.get(recipe.encoder.kind):
        step("the simple classic")
        results += classic(recipe, pack, labels, settings)
    step("random encoder")
    random = [random_features(recipe, pack, classes, draw) for draw in range(settings.draws)]
    results += probe_methods("random encoder", random, labels, settings)[0]
    jobs = [(shots, draw) for shots in settings.shots for draw in range(settings.draws)]
    jobs = jobs if settings.supervised_steps else []
    models = [fresh(recipe, pack, classes, draw) for _, draw in jobs]  # here: threads share torch's generator

    def train(job: tuple[Shots, int], model: nn.Sequential) -> float:
        step(f"supervised, {job[0]} labels a class, draw {job[1] + 1} of {settings.draws}")
        return supervised(recipe, pack, labels, settings, *job, model)

    # a step of a small encoder keeps few cores busy: several at once
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // torch.get_num_threads())) as pool:
        for (shots, draw), accuracy in zip(jobs, pool.map(train, jobs, models), strict=True):
            row = {"method": "supervised", "probe": "supervised", "shots": str(shots)}
            results.append(row | {"draw": draw, "accuracy": accuracy})
    return results


def random_features(recipe: Recipe, pack: Pack, classes: int, draw: int) -> Features:
    """Features of the encoder that this draw's supervised training starts from."""
    encoder: Any = fresh(recipe, pack, classes, draw)[0].to(pick_device(recipe.pretrain.device))
    return {split: embed(encoder, pack.samples(split), recipe.pretrain) for split in SPLITS}


def fresh(recipe: Recipe, pack: Pack, classes: int, draw: int) -> nn.Sequential:
    """The recipe's encoder with fresh weights and a linear classifier on it."""
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        encoder = build(recipe.encoder.without_weights(), pack.given)
        return nn.Sequential(encoder, nn.Linear(encoder.dim, classes))


def supervised(
    recipe: Recipe, pack: Pack, labels: Labels, settings: Classification, shots: Shots, draw: int, model: nn.Sequential
) -> float:
    """Test accuracy of `model` trained from scratch on one label subset: AdamW, warm-up and cosine, augmented views, the
    last step's weights. Every label is seen PASSES times at least."""
    device = pick_device(recipe.pretrain.device)
    autocast = mixed_precision(recipe.pretrain, device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(model, "adamw", lr=LEARNING_RATE, weight_decay=0.05)
    chosen = labels.subset(shots, draw)
    rows = labels.rows["train"][chosen]
    target = torch.from_numpy(np.searchsorted(labels.names, labels.classes["train"][chosen]))
    stored, chance, shown = pack.samples("train"), generator(draw, "supervised", str(shots)), settings.supervised_views
    encoder: Any = model[0]
    batch_size = min(BATCH_SIZE, len(rows))
    steps = max(settings.supervised_steps, PASSES * len(rows) // batch_size)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, steps // 10, steps)
        batch = torch.randint(len(rows), (batch_size,), generator=chance)
        views = {k: v.to(device) for k, v in shown.draw((len(batch),), chance).items()} if shown else {}
        samples = {k: torch.from_numpy(v).to(device) for k, v in take(stored, rows[batch.numpy()]).items()}
        with autocast():
            with torch.no_grad():
                inputs = encoder.read(samples)
                inputs = shown.render(inputs, views) if shown else inputs
            logits = model(inputs)
        F.cross_entropy(logits.float(), target[batch].to(device)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    answers, tested = [], pack.samples("test")
    with torch.inference_mode():
        for at in range(0, rows_in(tested), 1024):
            samples = {k: torch.from_numpy(v).to(device) for k, v in take(tested, slice(at, at + 1024)).items()}
            answers.append(model(encoder.read(samples)).argmax(1).cpu())
    predicted = np.array(labels.names)[torch.cat(answers)[labels.rows["test"]]]
    return float((predicted == labels.classes["test"]).mean())
