"""Robustness: what is left of accuracy when test images are noisy, blurred, weathered or badly compressed?

Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", section 3: 15
corruptions and 4 more at five severities, met by a classifier that saw clean images alone. Here it is a linear probe on all
labels, its penalty chosen on clean validation images. The mean accuracy over corruptions and severities is theirs (1 - mean
error), not divided by AlexNet's.

The severities are ImageNet-C's, made for 224 pixels: a blur of six pixels hides more of a smaller image. Methods compare, since
all of one encoder size see the same pixels; numbers of other sizes, or CIFAR-10-C's, do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssl_pipeline.evaluate.baselines import Classifier, Job, Training, fresh, train_on_labels
from ssl_pipeline.evaluate.classification import Features, Labels, interval, labels_of, linear_probe
from ssl_pipeline.evaluate.result import Cell, Metrics, Result
from ssl_pipeline.evaluate.settings_robustness import SEVERITIES, Robustness
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.compute import fast_forward, pick_device

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

SMALLEST = 32
"""Pixels a side that the corruptions need."""
SHEET_SEVERITY, SHEET_IMAGES = 3, 8
RESAMPLES = 1000

Classify = Callable[[np.ndarray], np.ndarray]
"""uint8 images `[n, channels, side, side]` -> classes `[n]`"""


def own(recipe: Recipe, pack: Pack, encoder: Any, features: Features, folder: Path, settings: Robustness) -> Result:
    """The recipe's linear probe under every corruption, and pictures of both."""
    labels = labels_of(pack)
    images, classes = chosen(pack, labels, settings)
    classify = probed(recipe, encoder, features, labels, len(images) * len(settings.corruptions) * len(SEVERITIES))
    spread = np.linspace(0, len(images) - 1, SHEET_IMAGES).astype(int)  # a source is often sorted by class
    correct, shown = {}, [images[spread]]
    for name, severity, corrupted in all_corrupted(images, settings.corruptions):
        correct[name, severity] = classify(corrupted) == classes
        if severity == SHEET_SEVERITY:
            shown.append(corrupted[spread])
    clean = classify(images) == classes
    by_name = {name: [float(correct[name, s].mean()) for s in SEVERITIES] for name in settings.corruptions}
    commonest = float(np.unique(classes, return_counts=True)[1].max() / len(classes))
    titles = ["clean", *(name.replace("_", " ") for name in settings.corruptions)]
    return Result(
        summarize(correct, clean),
        {
            "corruptions": ("corruptions", by_name, float(clean.mean()), commonest),
            "corrupted": ("sheet", np.stack(shown), [], titles),
        },
        facts={"classes": labels.names, "test_samples": len(images), "corrupted_as": corrupted_as(images)},
    )


def baselines(recipe: Recipe, pack: Pack, settings: Robustness, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    labels = labels_of(pack)
    images, classes = chosen(pack, labels, settings)
    step("random encoder")
    start, device = fresh(recipe, pack, len(labels.names), 0), pick_device(recipe.pretrain.device)
    random: Any = deepcopy(start[0]).to(device)
    features = {split: embed(random, pack.samples(split), recipe.pretrain) for split in SPLITS}
    count = len(images) * len(settings.corruptions) * len(SEVERITIES)
    methods = {"random encoder": ("linear", probed(recipe, random, features, labels, count))}
    if settings.supervised_steps:
        step("supervised, all labels")
        job = Job("all", 0, Training(settings.supervised_steps, settings.supervised_views))
        model = train_on_labels(recipe, pack, labels, job, start)
        methods["supervised"] = ("supervised", lambda images: classified(model, images, labels.names))
    step(f"{len(settings.corruptions)} corruptions")
    correct: dict[str, dict[tuple[str, int], np.ndarray]] = {method: {} for method in methods}
    for name, severity, corrupted in all_corrupted(images, settings.corruptions):
        for method, (_, classify) in methods.items():
            correct[method][name, severity] = classify(corrupted) == classes
    return {
        method: summarize(correct[method], classify(images) == classes, probe)
        for method, (probe, classify) in methods.items()
    }


def chosen(pack: Pack, labels: Labels, settings: Robustness) -> tuple[np.ndarray, np.ndarray]:
    """The test images that are corrupted, uint8 `[n, channels, side, side]`, and their classes `[n]`."""
    few = np.sort(np.random.default_rng(0).permutation(len(labels.rows["test"]))[: settings.test_samples])
    images = np.array(pack.samples("test")["image"][labels.rows["test"][few]])
    if images.shape[1] not in (1, 3):
        raise PipelineError(
            f"robustness: the images have {images.shape[1]} channels; the corruptions are made for grey or RGB images (1 or 3): "
            "drop this evaluation"
        )
    return images, labels.classes["test"][few]


def probed(recipe: Recipe, encoder: Any, features: Features, labels: Labels, count: int) -> Classify:
    """The encoder with a linear probe on clean features, to classify `count` images in all."""
    x, y = labels.take(features), labels.classes
    probe = linear_probe(x["train"], y["train"], x["validation"], y["validation"])
    encoder = encoder.to(pick_device(recipe.pretrain.device))
    forward = fast_forward(encoder, recipe.pretrain, count, 256)
    return lambda images: probe.predict(embed(encoder, {"image": images}, recipe.pretrain, forward))


@torch.inference_mode()
def classified(model: Classifier, images: np.ndarray, names: list[str]) -> np.ndarray:
    encoder: Any = model[0]
    parts = (torch.from_numpy(images[at : at + 1024]).to(encoder.device) for at in range(0, len(images), 1024))
    return np.array(names)[torch.cat([model(encoder.read({"image": part})).argmax(1).cpu() for part in parts])]


def all_corrupted(images: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, severity, and the images under it, of the same form."""
    for name in names:
        for severity in SEVERITIES:
            yield name, severity, corrupted(images, name, severity)


def corrupted(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    """uint8 images `[n, 1 or 3, side, side]` under one corruption; the same ones for everyone, whatever the global seed.

    Grey images are given as RGB and come back as the green channel, the nearest to brightness, so that noise keeps its
    strength. Images below 32 pixels have their edge repeated to that size, which is cut off again."""
    try:
        from imagecorruptions import corrupt
    except ImportError as error:
        raise PipelineError(
            f"robustness needs the package imagecorruptions-imaug ({error}): install ssl_pipeline[robustness], or drop this "
            "evaluation"
        ) from error

    def change(image: np.ndarray, seed: int) -> np.ndarray:
        try:
            with np.errstate(invalid="raise" if name == "spatter" else "ignore"):
                return corrupt(image, severity, name, **({"seed": seed} if name in OWN_SEED else {}))
        except FloatingPointError:  # no drop fell on so small an image; 0 / 0 would make it black
            return image

    return through(images, change)


OWN_SEED = ("impulse_noise", "glass_blur")
"""Corruptions that do not draw from numpy's global generator."""


def through(images: np.ndarray, change: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Images `[n, 1 or 3, side, side]` -> the same after `change` of each, uint8 `[height, width, 3]`, 32 pixels at least."""
    channels, side = images.shape[1:3]
    before = max(0, SMALLEST - side) // 2
    after = max(0, SMALLEST - side) - before
    padded = np.pad(images, ((0, 0), (0, 0), (before, after), (before, after)), mode="edge").transpose(0, 2, 3, 1)
    padded = np.repeat(padded, 3, 3) if channels == 1 else padded
    out = np.empty_like(images)
    with own_randomness():
        for row, image in enumerate(padded):
            np.random.seed(row)
            changed = change(np.ascontiguousarray(image), row)[before : before + side, before : before + side]
            out[row] = (changed if channels == 3 else changed[..., 1:2]).transpose(2, 0, 1)
    return out


@contextmanager
def own_randomness() -> Iterator[None]:
    """numpy's global generator, from which the corruptions draw, is afterwards as it was."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def corrupted_as(images: np.ndarray) -> str:
    channels, side = images.shape[1:3]
    return ("grey images as RGB" if channels == 1 else "RGB") + (
        f", edges repeated from {side} to {SMALLEST} pixels" if side < SMALLEST else f", {side} pixels"
    )


def summarize(correct: dict[tuple[str, int], np.ndarray], clean: np.ndarray, probe: str = "linear") -> Metrics:
    """All metrics from which images are classified right, `[n]` by corruption and severity, and among clean ones."""
    share = np.mean(list(correct.values()), axis=0)  # of each image's corruptions
    chance = np.random.default_rng(0)
    times = chance.multinomial(len(clean), np.full(len(clean), 1 / len(clean)), RESAMPLES)  # [resamples, n]
    ratios = (times @ share) / np.maximum(1, times @ clean)
    low, high = np.quantile(ratios, [0.025, 0.975])
    metrics = {
        "mean_accuracy": mean_of(share),
        "relative": {"mean": float(share.sum() / max(1, clean.sum())), "low": float(low), "high": float(high)},
        "clean_accuracy": interval([float(clean.mean())], len(clean)),
    }
    for name in dict.fromkeys(name for name, _ in correct):
        metrics[f"accuracy_under_{name}"] = mean_of(np.mean([correct[name, s] for s in SEVERITIES], axis=0))
    return {f"robustness/{probe}/{name}/all": cell for name, cell in metrics.items()}


def mean_of(shares: np.ndarray) -> Cell:
    """Mean of images' shares `[n]` in 0..1, and its 95% interval over images."""
    mean, half = float(shares.mean()), 1.96 * float(shares.std()) / math.sqrt(len(shares))
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}
