"""Classification from a frozen encoder: weighted kNN, a linear and an attentive probe, at few labels a class and at all.

    kNN         cosine similarity, k neighbours weighted by exp(cosine / temperature) (Wu et al. 2018, section 3.4)
    linear      multinomial logistic regression on standardised features, its L2 penalty chosen on the validation split
                (Kornblith et al. 2019, appendix A.6)
    attentive   `attentive.py`

Every method sees the same label subsets; among them two controls of videos (`clip_controls.py`). Numbers are on the test
split, which nothing was trained or chosen on; those beside accuracy are in `scores.py`, calibration for the linear probe at the
most labels alone.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ssl_pipeline.evaluate.clip_controls import without_time
from ssl_pipeline.evaluate.result import Metrics, Result, t_half
from ssl_pipeline.evaluate.scores import Answer, interval_of, rare, scores
from ssl_pipeline.evaluate.settings import Classification, LabelSubsets, Shots, named, share
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

PENALTIES = (0.01, 0.1, 1.0)
"""scikit-learn's C: the inverse of the L2 penalty."""

Features = dict[str, np.ndarray]
"""One float array `[n, dim]` a split."""
Rows = list[dict[str, Any]]
"""KEYS, `correct` (a bool a test sample), and what `scores` finds."""
KEYS = ("method", "probe", "shots", "draw")


@dataclass(frozen=True)
class Labels:
    """The labelled samples of a pack: for each split, their rows in it and their classes."""

    rows: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        return sorted(set(self.classes["train"]))

    def take(self, features: Features) -> Features:
        return {split: features[split][rows] for split, rows in self.rows.items()}

    def subset(self, shots: Shots, draw: int) -> np.ndarray:
        """Positions in the labelled training samples: `shots` a class, or as many as there are; of a share one a class at
        least. Decided by the draw and the class's name alone, so that every method and recipe sees the same."""
        classes = self.classes["train"]
        if shots == "all":
            return np.arange(len(classes))
        chosen = []
        for name in self.names:
            seed = hashlib.sha256(f"{draw}/{name}".encode()).digest()[:8]
            order = np.random.default_rng(int.from_bytes(seed, "big")).permutation(np.flatnonzero(classes == name))
            chosen.append(order[: shots if isinstance(shots, int) else max(1, round(share(shots) * len(order)))])
        return np.concatenate(chosen)

    def target(self, chosen: np.ndarray) -> Tensor:
        """What a network is trained to say of training samples: indices into `names`."""
        return torch.from_numpy(np.searchsorted(self.names, self.classes["train"][chosen]))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)

    def most(self, settings: LabelSubsets) -> Shots:
        """The shots that give the most labels."""
        return max(settings.shots, key=lambda shots: (len(self.subset(shots, 0)), shots == "all"))

    def scored(
        self, method: str, probe: str, shots: Shots, draw: int, answer: Answer, validation: np.ndarray | None = None
    ) -> dict[str, Any]:
        """A row of results; `validation` are probabilities on that split, where calibration is asked for."""
        known = None if validation is None else (self.classes["validation"], validation)
        row = {"method": method, "probe": probe, "shots": named(shots), "draw": draw}
        row["correct"] = answer.predicted == self.classes["test"]
        return row | scores(self.classes["test"], self.names, answer, errors=draw == 0, validation=known)

    def facts(self, settings: LabelSubsets) -> dict[str, Any]:
        """What a summary says of the labels."""
        return {
            "classes": self.names,
            "test_samples": len(self.rows["test"]),
            "rare_classes": rare(self.classes["test"]),
            "labels_a_class": {named(s): len(self.subset(s, 0)) / len(self.names) for s in settings.shots},
        }


def own(recipe: Recipe, pack: Pack, encoder: Any, features: Features, folder: Path, settings: Classification) -> Result:
    """Every probe on this encoder, or on its features of every split; of videos also where their clips are without time."""
    labels = labels_of(pack)
    rows, matrix = probed(recipe.name, recipe, pack, encoder, features, labels, settings)
    for name, control in without_time(pack).items() if recipe.encoder.kind == "video" else ():
        seen = {split: embed(encoder, control.samples(split), recipe.pretrain) for split in SPLITS}
        rows += probed(name, recipe, control, encoder, seen, labels, settings)[0]
    controls = summarize(pd.DataFrame(rows), len(labels.rows["test"]))
    metrics = controls.pop(recipe.name)
    return Result(metrics, {"confusion": ("confusion", matrix, labels.names)}, controls, labels.facts(settings))


def probed(
    method: str, recipe: Recipe, pack: Pack, encoder: Any, features: Features, labels: Labels, settings: Classification
) -> tuple[Rows, np.ndarray]:
    """Rows of every probe of the settings, and the linear one's confusion matrix."""
    rows, matrix = probe_methods(method, [features], labels, settings)
    if "attentive" in settings.probes:
        from ssl_pipeline.evaluate.attentive import attentive_rows

        rows += attentive_rows(method, [encoder], recipe, pack, labels, settings)
    return rows, matrix


def baselines(recipe: Recipe, pack: Pack, settings: Classification, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    from ssl_pipeline.evaluate.baselines import all_baselines

    labels = labels_of(pack)
    return summarize(pd.DataFrame(all_baselines(recipe, pack, labels, settings, step)), len(labels.rows["test"]))


def labels_of(pack: Pack) -> Labels:
    """Raises PipelineError where there is nothing to classify."""
    index = {split: pack.index(split)["label"] for split in SPLITS}
    rows = {split: np.flatnonzero(column.notna()) for split, column in index.items()}
    found = Labels(rows, {s: index[s].to_numpy(dtype=object)[rows[s]].astype(str) for s in SPLITS})
    if missing := [split for split in SPLITS if not len(rows[split])]:
        raise PipelineError(f"no labels in the {missing[0]} split; label more samples or set evaluations: []")
    if len(found.names) < 2:
        raise PipelineError(
            f"one class only in the train split ({found.names[0]!r}): change the split or drop this evaluation"
        )
    return found


def probe_methods(
    method: str, per_draw: list[Features], labels: Labels, settings: Classification
) -> tuple[Rows, np.ndarray]:
    """kNN and the linear probe at every shot count. `per_draw` has one set of features, or one for each draw (random encoders).

    Returns rows and the confusion matrix of the linear probe at the most labels.
    """
    results, matrix, most = [], np.zeros((0, 0), int), labels.most(settings)
    sets = [labels.take(features) for features in per_draw]
    for shots in settings.shots:
        for draw in range(len(sets) if shots == "all" else settings.draws):
            x = sets[draw % len(sets)]
            chosen = labels.subset(shots, draw)
            train, y = x["train"][chosen], labels.classes["train"][chosen]
            if "knn" in settings.probes:
                voted = Answer(knn(train, y, x["test"], settings))
                results.append(labels.scored(method, "knn", shots, draw, voted))
            model = linear_probe(train, y, x["validation"], labels.classes["validation"])
            answer = Answer(model.predict(x["test"]), model.predict_proba(x["test"]))
            validation = model.predict_proba(x["validation"]) if shots == most else None
            results.append(labels.scored(method, "linear", shots, draw, answer, validation))
            if shots == most and draw == 0:
                matrix = confusion_matrix(labels.classes["test"], answer.predicted, labels=labels.names)
    return results, matrix


def knn(train: np.ndarray, y: np.ndarray, test: np.ndarray, settings: Classification) -> np.ndarray:
    model = KNeighborsClassifier(
        n_neighbors=min(settings.k, len(train)),
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / settings.temperature),
    )
    return model.fit(train, y).predict(test)


def linear_probe(train: np.ndarray, y: np.ndarray, validation: np.ndarray, validation_y: np.ndarray) -> Pipeline:
    """Fitted with the penalty that is best on validation; the first (strongest) of equals."""
    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    model, best, answer = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True), -1.0, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an early stop is one more regulariser here
        for penalty in PENALTIES:
            score = model.set_params(C=penalty).fit(train, y).score(validation, validation_y)
            if score > best:
                best, answer = score, deepcopy(model)
    return Pipeline([("standardize", scaler), ("classify", answer)])


def interval(accuracies: list[float], test_samples: int) -> dict[str, float]:
    """Mean and 95% interval of an accuracy: Student's t over the draws and Wilson's interval for the finite test split
    (Wilson 1927), added in quadrature. One draw has the second part alone."""
    mean, draws = float(np.mean(accuracies)), t_half(accuracies)
    finite = stats.binomtest(round(mean * test_samples), test_samples).proportion_ci(method="wilson")
    low, high = (math.hypot(max(0.0, side), draws) for side in (mean - finite.low, finite.high - mean))
    return {"mean": mean, "low": max(0.0, mean - low), "high": min(1.0, mean + high)}


def summarize(results: pd.DataFrame, test_samples: int, kind: str = "classification") -> dict[str, Metrics]:
    """method -> metric name -> mean, low, high."""
    summary: dict[str, Metrics] = {}
    measures = [name for name in results.columns if name not in (*KEYS, "correct") and not name.endswith("_error")]
    for (method, probe, shots), group in results.groupby(["method", "probe", "shots"], sort=False):
        for measure in measures:
            if values := group[measure].dropna().tolist():
                summary.setdefault(str(method), {})[f"{kind}/{probe}/{measure}/{shots}"] = (
                    interval(values, test_samples) | {"scores": np.mean(group["correct"].tolist(), axis=0)}
                    if measure == "accuracy"
                    else interval_of(measure, values, group[f"{measure}_error"].max())
                )
    return summary
