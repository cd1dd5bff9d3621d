"""Classification from frozen features: weighted kNN and a linear probe, at few labels a class and at all.

    kNN      cosine similarity, k neighbours weighted by exp(cosine / temperature) (Wu et al. 2018, section 3.4)
    linear   multinomial logistic regression on standardised features, its L2 penalty chosen on the validation split
             (Kornblith et al. 2019, appendix A.6)

Every method sees the same label subsets. Numbers are on the test split, which nothing was trained or chosen on.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings import Classification, Shots
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

PENALTIES = (0.01, 0.1, 1.0)
"""scikit-learn's C: the inverse of the L2 penalty."""

Features = dict[str, np.ndarray]
"""One float array `[n, dim]` a split."""


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
        """Positions in the labelled training samples: `shots` a class, or as many as there are. Decided by the draw and
        the class's name alone, so that every method and recipe sees the same."""
        classes = self.classes["train"]
        if shots == "all":
            return np.arange(len(classes))
        chosen = []
        for name in self.names:
            seed = hashlib.sha256(f"{draw}/{name}".encode()).digest()[:8]
            order = np.random.default_rng(int.from_bytes(seed, "big")).permutation(np.flatnonzero(classes == name))
            chosen.append(order[:shots])
        return np.concatenate(chosen)


def own(recipe: Recipe, pack: Pack, encoder: Any, features: Features, folder: Path, settings: Classification) -> Result:
    """Both probes on these features of every split."""
    labels = labels_of(pack)
    rows, matrix = probe_methods(recipe.name, [features], labels, settings)
    tested = len(labels.rows["test"])
    metrics = summarize(pd.DataFrame(rows), tested)[recipe.name]
    pictures = {"confusion": ("confusion", matrix, labels.names)}
    return Result(metrics, pictures, facts={"classes": labels.names, "test_samples": tested})


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
    return found


def probe_methods(
    method: str, per_draw: list[Features], labels: Labels, settings: Classification
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Both probes at every shot count. `per_draw` has one set of features, or one for each draw (random encoders).

    Returns rows (method, probe, shots, draw, accuracy) and the confusion matrix of the linear probe at the most labels.
    """
    results, matrix = [], np.zeros((0, 0), int)
    most = max(settings.shots, key=lambda s: math.inf if s == "all" else s)
    sets = [labels.take(features) for features in per_draw]
    for shots in settings.shots:
        for draw in range(len(sets) if shots == "all" else settings.draws):
            x = sets[draw % len(sets)]
            chosen = labels.subset(shots, draw)
            train, y = x["train"][chosen], labels.classes["train"][chosen]
            predicted = {
                "knn": knn(train, y, x["test"], settings),
                "linear": linear_probe(train, y, x["validation"], labels.classes["validation"], x["test"]),
            }
            truth = labels.classes["test"]
            for probe, answer in predicted.items():
                accuracy = float((answer == truth).mean())
                results.append(
                    {"method": method, "probe": probe, "shots": str(shots), "draw": draw, "accuracy": accuracy}
                )
            if shots == most and draw == 0:
                matrix = confusion_matrix(truth, predicted["linear"], labels=labels.names)
    return results, matrix


def knn(train: np.ndarray, y: np.ndarray, test: np.ndarray, settings: Classification) -> np.ndarray:
    model = KNeighborsClassifier(
        n_neighbors=min(settings.k, len(train)),
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / settings.temperature),
    )
    return model.fit(train, y).predict(test)


def linear_probe(
    train: np.ndarray, y: np.ndarray, validation: np.ndarray, validation_y: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Predictions on `test` of the penalty that is best on validation; the first (strongest) of equals."""
    scaler = StandardScaler().fit(train)
    train, validation, test = (scaler.transform(x) for x in (train, validation, test))
    model, best, answer = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True), -1.0, np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an early stop is one more regulariser here
        for penalty in PENALTIES:
            score = model.set_params(C=penalty).fit(train, y).score(validation, validation_y)
            if score > best:
                best, answer = score, model.predict(test)
    return answer


def interval(accuracies: list[float], test_samples: int) -> dict[str, float]:
    """Mean and 95% interval of an accuracy: Student's t over the draws and Wilson's interval for the finite test split
    (Wilson 1927), added in quadrature. One draw has the second part alone."""
    mean, n = float(np.mean(accuracies)), len(accuracies)
    finite = stats.binomtest(round(mean * test_samples), test_samples).proportion_ci(method="wilson")
    draws = float(stats.t.ppf(0.975, n - 1) * np.std(accuracies, ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    low, high = (math.hypot(max(0.0, side), draws) for side in (mean - finite.low, finite.high - mean))
    return {"mean": mean, "low": max(0.0, mean - low), "high": min(1.0, mean + high)}


def summarize(results: pd.DataFrame, test_samples: int) -> dict[str, Metrics]:
    """method -> metric name -> mean, low, high."""
    summary: dict[str, Metrics] = {}
    for (method, probe, shots), group in results.groupby(["method", "probe", "shots"], sort=False):
        name = f"classification/{probe}/accuracy/{shots}"
        summary.setdefault(str(method), {})[name] = interval(group["accuracy"].tolist(), test_samples)
    return summary
