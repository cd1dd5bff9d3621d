"""Semantic segmentation: a linear layer on the frozen features of every place says the class of its pixels.

The linear protocol of Oquab et al. 2023 (DINOv2, section 7.4): logits at the map's resolution, enlarged bilinearly to the images'.
The layer is a multinomial logistic regression on standardised features (`segmentation_probe.py`), its penalty chosen by mean
intersection over union on the validation split. Pixels are counted by torchmetrics in one confusion matrix over the whole test
split; a class that is neither there nor found counts in no mean. All of it at the size that the encoder sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssl_pipeline.evaluate.result import Cell, Metrics, Result, t_half
from ssl_pipeline.evaluate.segmentation_probe import Head, Locate, Subset, fitted, of_encoder, predicted
from ssl_pipeline.evaluate.settings_segmentation import MEASURES, Segmentation
from ssl_pipeline.ingest.image_masks import IGNORED
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack, Stored

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

RESAMPLES = 200
SHOWN = 6
BATCH = 32
"""Images whose features are computed at a time."""

Answers = dict[Subset, np.ndarray]
"""Of each subset of training images a confusion matrix for each test image, `[n, true class, found class]`."""


@dataclass(frozen=True)
class Masked:
    """A split's images, `[n, channels, side, side]`, and the class of each of their pixels, `[n, side, side]`."""

    images: Stored
    masks: np.ndarray
    groups: np.ndarray
    """An integer each: those of one are resampled together."""


Data = dict[str, Masked]


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Segmentation
) -> Result:
    """The linear layer on this encoder's features, and what it sees."""
    data, names = masked(pack)
    test = data["test"]
    locate = of_encoder(encoder, recipe, settings.stage)
    asked = [(count, draw) for count in settings.images for draw in range(1 if count == "all" else settings.draws)]
    answers, heads = probed(locate, data, len(names), asked, settings)
    metrics = cells(answers, test, settings)
    most = [answers[subset] for subset in asked if subset[0] == settings.most]
    per_class = {
        name: cell([float(iou(one.sum(0))[number]) for one in most], error_of(lambda c: iou(c)[..., number], most[0], test))
        for number, name in enumerate(names)
        if most[0][:, number].any()
    }  # fmt: skip
    few = np.sort(np.random.default_rng(0).permutation(len(test.masks))[:SHOWN])
    shown = np.array(test.images[few])
    found = predicted(locate, heads[(settings.most, 0)], shown)
    return Result(
        metrics,
        {
            "segmentations": ("segmentations", shown, test.masks[few], found, names),
            "classes": ("bars", per_class, "intersection over union"),
        },
        facts={
            "classes": names,
            "per_class": per_class,
            "map": list(locate(shown[:1]).shape[2:]),
            "side": test.masks.shape[-1],
            "train_images": len(data["train"].masks),
            "test_samples": len(test.masks),
            "test_groups": len(set(test.groups)) if grouped(pack) else 0,
        },
    )


def baselines(recipe: Recipe, pack: Pack, settings: Segmentation, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    from ssl_pipeline.evaluate.segmentation_baselines import all_baselines

    data, names = masked(pack)
    found = all_baselines(recipe, pack, data, len(names), settings, step)
    return {method: cells(answers, data["test"], settings) for method, answers in found.items()}


def masked(pack: Pack) -> tuple[Data, list[str]]:
    """Every split, and the names of the classes. Raises PipelineError where there is nothing to segment."""
    if not (pack.path / "masks.json").exists():
        raise PipelineError(
            "the dataset has no masks, which segmentation needs: name a source of kind masks, or leave segmentation out"
        )
    names = json.loads((pack.path / "masks.json").read_text())
    data = {}
    for split in SPLITS:
        masks = np.load(pack.path / f"masks.{split}.npy", mmap_mode="r")
        if not (masks != IGNORED).any():
            raise PipelineError(f"no pixel of the {split} split has a class: draw more masks or leave segmentation out")
        index = pack.index(split)
        units = index["group"].where(index["group"].notna(), index["sample_id"])
        data[split] = Masked(pack.samples(split)["image"], masks, np.unique(units.astype(str), return_inverse=True)[1])
    return data, names


def grouped(pack: Pack) -> bool:
    return bool(pack.index("test")["group"].notna().any())


def rows_of(subset: Subset, images: int) -> np.ndarray:
    """The training images of a subset; decided by its draw alone, and a smaller one is part of a larger one of the same draw."""
    count, draw = subset
    return np.arange(images) if count == "all" else np.sort(np.random.default_rng(draw).permutation(images)[:count])


def probed(
    locate: Locate, data: Data, classes: int, asked: list[Subset], settings: Segmentation
) -> tuple[Answers, dict[Subset, Head]]:
    """The answers of a linear layer for each subset, whose penalty is best on validation (the strongest of equals), and these
    layers. Each split goes through the encoder once, and only the training places are kept."""
    train = data["train"]
    tried = {
        subset: fitted(locate, train.images, train.masks, rows_of(subset, len(train.masks)), classes, settings, subset[1])
        for subset in asked
    }  # fmt: skip
    everyone = [(subset, head) for subset, heads in tried.items() for head in heads]
    scores = [miou(one.sum(0)) for one in counted(locate, data["validation"], classes, [head for _, head in everyone])]
    best = {
        subset: max(
            (score, -n) for n, (score, (of, _)) in enumerate(zip(scores, everyone, strict=True)) if of == subset
        )
        for subset in asked
    }
    chosen = {subset: everyone[-place][1] for subset, (_, place) in best.items()}
    test = counted(locate, data["test"], classes, list(chosen.values()))
    return dict(zip(chosen, test, strict=True)), chosen


def counted(locate: Locate, split: Masked, classes: int, heads: list[Head]) -> list[np.ndarray]:
    """For each head the confusion matrix of every image, `[n, classes, classes]`."""
    found: list[list[np.ndarray]] = [[] for _ in heads]
    for at in range(0, len(split.masks), BATCH):
        rows = slice(at, at + BATCH)
        features, truth = locate(np.array(split.images[rows])), np.array(split.masks[rows])
        for head, mine in zip(heads, found, strict=True):
            mine.append(confusions(head.classes_of(features, truth.shape[-1]), truth, classes))
    return [np.concatenate(mine) for mine in found]


def confusions(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Of classes `[n, side, side]`: `[n, true class, found class]`, pixels without a class left out."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    pairs = zip(torch.from_numpy(found.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)), strict=True)
    return np.stack([multiclass_confusion_matrix(*pair, classes, ignore_index=IGNORED).numpy() for pair in pairs])


def iou(confusion: np.ndarray) -> np.ndarray:
    """`[..., classes, classes]` -> intersection over union of each class, NaN where it is neither there nor found."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    union = confusion.sum(-1) + confusion.sum(-2) - right
    return np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)


def miou(confusion: np.ndarray) -> Any:
    return np.nanmean(iou(confusion), -1)


def pixel_accuracy(confusion: np.ndarray) -> Any:
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


SCORES: dict[str, Callable[[np.ndarray], Any]] = dict(zip(MEASURES, (miou, pixel_accuracy), strict=True))


def cells(answers: Answers, test: Masked, settings: Segmentation) -> Metrics:
    metrics = Metrics()
    for measure, score in SCORES.items():
        for count in settings.images:
            draws = [answer for (of, _), answer in answers.items() if of == count]
            if draws:
                values = [float(score(one.sum(0))) for one in draws]
                metrics[f"segmentation/linear/{measure}/{count}"] = cell(values, error_of(score, draws[0], test))
    return metrics


def error_of(score: Callable[[np.ndarray], Any], answer: np.ndarray, test: Masked) -> float:
    """The standard error of a score because the test split is finite: the bootstrap over images, those of a group together."""
    parts = np.zeros((test.groups.max() + 1, *answer.shape[1:]))
    np.add.at(parts, test.groups, answer)
    n = len(parts)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return float(np.nanstd(score(np.tensordot(times, parts, 1))))


def cell(values: list[float], error: float) -> Cell:
    """Mean and 95% interval: Student's t over draws and the test split's standard error, added in quadrature."""
    mean, half = float(np.mean(values)), math.hypot(t_half(values), 1.96 * error)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}
