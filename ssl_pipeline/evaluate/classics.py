"""The field's simple classic for each kind of data: what a person without a network would try first, on the same labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ssl_pipeline.evaluate import classic_audio, classic_series, classic_text
from ssl_pipeline.evaluate.classification import Features, Labels, Rows, probe_methods
from ssl_pipeline.evaluate.scores import Answer
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Pack, Stored
from ssl_pipeline.recipe import Recipe

Predict = Callable[[Any, np.ndarray, Any, np.ndarray, Any], np.ndarray]
"""Training samples and classes, validation samples and classes, test samples -> classes of these"""


def images(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification) -> Rows:
    """Raw pixels, by the same probes as the encoders' features."""
    return probe_methods("raw pixels", [raw_pixels(pack)], labels, settings)[0]


def audio(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification) -> Rows:
    """Mel-frequency cepstra and a support vector machine."""
    stored = {split: pack.samples(split)["audio"] for split in SPLITS}
    cepstra = {split: classic_audio.mfcc_features(np.asarray(a), recipe.encoder) for split, a in stored.items()}
    return by_subsets("MFCC, SVC", classic_audio.svc_probe, cepstra, labels, settings)


def texts(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification) -> Rows:
    """Weighted word counts and logistic regression."""
    features = classic_text.tfidf_features({split: classic_text.texts_of(pack, split) for split in SPLITS})
    return by_subsets("TF-IDF", classic_text.sparse_probe, features, labels, settings)


def series(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification) -> Rows:
    """The nearest neighbour, and MiniRocket."""
    stored = {split: np.asarray(pack.samples(split)["values"]) for split in SPLITS}
    spread = stored["train"].std((0, 2))[:, None] + 1e-9  # levels count: they tell a lying watch from a hanging one
    methods: dict[str, Predict] = {
        "1-nearest neighbour": lambda x, y, _, __, test: classic_series.nearest_neighbor(
            x / spread, y, test / spread, False
        ),
        "MiniRocket": lambda x, y, _, __, test: classic_series.mini_rocket(x, y, test),
    }
    return [
        row for name, predict in methods.items() for row in by_subsets(name, predict, stored, labels, settings)
    ]  # fmt: skip


def videos(recipe: Recipe, pack: Pack, labels: Labels, settings: Classification) -> Rows:
    """Raw pixels of the frame in the middle."""
    clips = {split: pack.samples(split)["clip"] for split in SPLITS}
    middle = {
        split: np.concatenate([small(part[:, part.shape[1] // 2]) for part in parts(a)]) for split, a in clips.items()
    }
    return probe_methods("raw pixels", [middle], labels, settings)[0]


def by_subsets(
    method: str, predict: Predict, samples: dict[str, Any], labels: Labels, settings: Classification
) -> Rows:
    """A classifier of its own on each of the label subsets that the encoders' probes see."""
    rows, x = [], labels.take(samples)
    for shots in settings.shots:
        for draw in range(1 if shots == "all" else settings.draws):
            chosen = labels.subset(shots, draw)
            known = x["train"][chosen], labels.classes["train"][chosen]
            answer = predict(*known, x["validation"], labels.classes["validation"], x["test"])
            rows.append(labels.scored(method, "linear", shots, draw, Answer(answer)))
    return rows


def raw_pixels(pack: Pack) -> Features:
    """The pixels themselves, of larger images averaged down to 32 pixels a side."""
    stored = {split: pack.samples(split)["image"] for split in SPLITS}
    return {split: np.concatenate([small(part) for part in parts(array)]) for split, array in stored.items()}


def small(images: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(np.array(images)).float() / 255
    return (F.interpolate(pixels, (32, 32), mode="area") if pixels.shape[-1] > 32 else pixels).flatten(1).numpy()


def parts(array: Stored) -> Iterator[np.ndarray]:
    return (array[at : at + 1024] for at in range(0, len(array), 1024))


CLASSICS: dict[str, Callable[[Recipe, Pack, Labels, Classification], Rows]] = {
    "image": images, "image_text": images, "audio": audio, "text": texts, "series": series, "video": videos
}  # fmt: skip
"""By the kind of encoder."""
