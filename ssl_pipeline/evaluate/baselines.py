"""What self-supervision must beat: a random encoder, raw pixels, and a supervised model on the same few labels.

They depend on the dataset, the encoder and the evaluation's settings, never on the pretext task: computed once for all
recipes that share those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.evaluate.classification import Features, Labels, probe_methods
from ssl_pipeline.evaluate.settings import Classification, Shots
from ssl_pipeline.features.extract import embed
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import SPLITS, Pack
from ssl_pipeline.pretrain.loop import mixed_precision, pick_device, schedule
from ssl_pipeline.recipe import Recipe

BATCH_SIZE, LEARNING_RATE = 32, 5e-3


def all_baselines(
    recipe: Recipe, pack: Pack, labels: Labels, settings: Classification, step: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows (method, probe, shots, draw, accuracy) of every baseline; `step` hears of each before it starts."""
    step("raw pixels")
    results, _ = probe_methods("raw pixels", [raw_pixels(pack)], labels, settings)
    step("random encoder")
    random = [random_features(recipe, pack, draw) for draw in range(settings.draws)]
    results += probe_methods("random encoder", random, labels, settings)[0]
    for shots in settings.shots if settings.supervised_steps else ():
        for draw in range(settings.draws):
            step(f"supervised, {shots} labels a class, draw {draw + 1} of {settings.draws}")
            accuracy = supervised(recipe, pack, labels, settings, shots, draw)
            results.append(
                {"method": "supervised", "probe": "supervised", "shots": str(shots), "draw": draw, "accuracy": accuracy}
            )
    return results


def raw_pixels(pack: Pack) -> Features:
    return {split: pack.images(split).reshape(len(pack.images(split)), -1).astype(np.float32) / 255 for split in SPLITS}


def random_features(recipe: Recipe, pack: Pack, draw: int) -> Features:
    """Features of the recipe's encoder with fresh weights, one set of weights a draw."""
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        encoder = build(recipe.encoder.model_copy(update={"pretrained": False}), pack.channels, pack.mean, pack.std)
    encoder.to(pick_device(recipe.pretrain.device))
    return {split: embed(encoder, pack.images(split)) for split in SPLITS}


def supervised(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification, shots: Shots, draw: int) -> float:
    """Test accuracy of the same encoder trained from scratch on one label subset: AdamW, warm-up and cosine, augmented
    views, the last step's weights."""
    device = pick_device(recipe.pretrain.device)
    autocast = mixed_precision(recipe.pretrain, device)
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        encoder = build(recipe.encoder.model_copy(update={"pretrained": False}), pack.channels, pack.mean, pack.std)
        model = nn.Sequential(encoder, nn.Linear(encoder.dim, len(labels.names)))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(model, "adamw", lr=LEARNING_RATE, weight_decay=0.05)
    chosen = labels.subset(shots, draw)
    rows = labels.rows["train"][chosen]
    target = torch.from_numpy(np.searchsorted(labels.names, labels.classes["train"][chosen]))
    images, chance = pack.images("train"), generator(draw, "supervised", str(shots))
    model.train()
    for step in range(settings.supervised_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, settings.supervised_steps // 10, settings.supervised_steps)
        batch = torch.randint(len(rows), (min(BATCH_SIZE, len(rows)),), generator=chance)
        views = {k: v.to(device) for k, v in settings.supervised_views.draw((len(batch),), chance).items()}
        x = torch.from_numpy(images[rows[batch.numpy()]]).to(device).float() / 255
        with autocast():
            logits = model(settings.supervised_views.render(x, views))
        F.cross_entropy(logits.float(), target[batch].to(device)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    test = images_of(pack, labels)
    with torch.inference_mode():
        answers = [model(part.to(device).float() / 255).argmax(1).cpu() for part in test.split(256)]
    return float((np.array(labels.names)[torch.cat(answers)] == labels.classes["test"]).mean())


def images_of(pack: Pack, labels: Labels) -> torch.Tensor:
    """The labelled test images, uint8."""
    return torch.from_numpy(pack.images("test")[labels.rows["test"]])
