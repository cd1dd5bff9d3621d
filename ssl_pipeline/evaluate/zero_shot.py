"""Zero-shot classification: the class whose name, in a prompt, is nearest to the image.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), section 3.1.2: cosine
similarity of the image with the classes' text embeddings; section 3.1.4: of several prompts a class the normalised embeddings are
averaged. Accuracy over images, and the mean of the classes' accuracies, which does not reward naming the largest class.

Which class names and prompts stand in a caption of the training split decides what can be found at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from torch import Tensor

from ssl_pipeline.evaluate.classification import interval
from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Cell, Metrics, Result
from ssl_pipeline.evaluate.settings_zero_shot import ZeroShot
from ssl_pipeline.features.extract import embed
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.compute import pick_device

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

RESAMPLES = 1000


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: ZeroShot
) -> Result:
    """From the images' embeddings `features["test"]`."""
    rows, truth, names = tested(pack)
    answer = predicted(encoder, features["test"][rows], names, settings)
    matrix = confusion_matrix(truth, answer, labels=names)
    facts = {"classes": names, "test_samples": len(answer)}
    return Result(summarize([answer], truth), {"confusion": ("confusion", matrix, names)}, facts=facts)


def baselines(recipe: Recipe, pack: Pack, settings: ZeroShot, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    (rows, truth, names), answers = tested(pack), []
    step("random encoder")
    for draw in range(settings.random_encoders):
        fresh = fresh_encoder(recipe, pack, draw).to(pick_device(recipe.pretrain.device))
        images = embed(fresh, pack.samples("test"), recipe.pretrain)[rows]
        answers.append(predicted(fresh, images, names, settings))
    return {"random encoder": summarize(answers, truth), "chance": at_chance(names)}


def tested(pack: Pack) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The labelled rows of the test split, their classes, and those that there are. Raises PipelineError for fewer than two."""
    column = pack.index("test")["label"]
    rows = np.flatnonzero(column.notna())
    truth = column.to_numpy(dtype=object)[rows].astype(str)
    names = np.unique(truth).tolist()
    if len(names) < 2:
        raise PipelineError(
            f"zero_shot: {len(names)} classes in the test split, it needs two: label more samples or drop it"
        )
    return rows, truth, names


def predicted(encoder: Any, images: np.ndarray, names: list[str], settings: ZeroShot) -> np.ndarray:
    """The class of each image `[n, dim]`."""
    classes = prompted(encoder, names, settings)
    similar = F.normalize(torch.from_numpy(images), dim=1) @ classes.T  # [n, classes]
    return np.array(names)[similar.argmax(1).numpy()]


@torch.inference_mode()
def prompted(encoder: Any, names: list[str], settings: ZeroShot) -> Tensor:
    """Unit embeddings of the classes `[classes, dim]`."""
    encoder.eval()
    said = [settings.names.get(name, name.replace("_", " ")).lower() for name in names]
    texts = [prompt.replace("{}", name) for name in said for prompt in settings.prompts]
    embedded = F.normalize(encoder.text(encoder.tokenize(texts).to(encoder.device)).float(), dim=1)
    return F.normalize(embedded.unflatten(0, (len(names), -1)).mean(1), dim=1).cpu()


def summarize(answers: list[np.ndarray], truth: np.ndarray) -> Metrics:
    """Of predicted classes `[n]`, an encoder each."""
    accuracy = interval([float((answer == truth).mean()) for answer in answers], len(truth))
    accuracy |= {"scores": np.mean([answer == truth for answer in answers], axis=0)}
    return cells(accuracy, class_mean([balanced_accuracy_score(truth, answer) for answer in answers], answers, truth))


def class_mean(means: list[float], answers: list[np.ndarray], truth: np.ndarray) -> Cell:
    """With the 95% interval over test images, drawn anew within each class."""
    random, spread = np.random.default_rng(0), []
    right = np.mean([answer == truth for answer in answers], axis=0)
    for name in np.unique(truth):
        own = right[truth == name]
        spread.append(random.choice(own, (RESAMPLES, len(own))).mean(1))
    low, high = np.quantile(np.mean(spread, axis=0), (0.025, 0.975))
    return {"mean": float(np.mean(means)), "low": float(low), "high": float(high)}


def at_chance(names: list[str]) -> Metrics:
    """A class named at random, each as likely."""
    share = 1 / len(names)
    cell = {"mean": share, "low": share, "high": share}
    return cells(cell, cell)


def cells(accuracy: Cell, class_mean: Cell) -> Metrics:
    return {"zero_shot/prompted/accuracy/all": accuracy, "zero_shot/prompted/class_mean_accuracy/all": class_mean}
