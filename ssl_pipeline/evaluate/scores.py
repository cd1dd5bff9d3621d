"""Metrics of a classifier beside its accuracy, and how far the finite test split lets one be sure of them.

    macro_f1   mean F1 of the classes
    auc        area under the ROC curve, each class against the rest, mean over classes; where a class is rare
    ece        mean distance of confidence from accuracy in 15 bins of confidence (Guo et al. 2017, equation 3)
    nll        mean negative log-likelihood of the true class, in nats

The latter two also after temperature scaling (Guo et al. 2017, section 4.2), fitted on the validation split.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from ssl_pipeline.evaluate.result import t_half

BINS = 15
RARE = 0.1
"""Share of the test split under which a class is rare."""
PARTS = 10
"""Of the test split, each of which the jackknife leaves out once."""


@dataclass(frozen=True)
class Answer:
    """What a classifier says of samples: class names `[n]`, and probabilities `[n, classes]` where it has them."""

    predicted: np.ndarray
    probabilities: np.ndarray | None = None


def scores(
    truth: np.ndarray, names: list[str], answer: Answer, errors: bool, validation: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, float]:
    """Every metric that applies, and with `errors` the standard error of each but accuracy as `NAME_error`.

    `names` are the classes of the columns of probabilities; `validation` is the truth and probabilities `[n, classes]` on the
    validation split, where calibration is asked for.
    """
    measured: dict[str, Callable[[np.ndarray], float]] = {
        "macro_f1": lambda rows: macro_f1(truth[rows], answer.predicted[rows])
    }
    if (given := answer.probabilities) is not None and rare(truth):
        measured["auc"] = lambda rows: auc(truth[rows], given[rows], names)
    if given is not None and validation:
        versions = {"": given, "_scaled": tempered(given, temperature(*validation, names))}
        for suffix, probabilities in versions.items():
            for name, measure in (("ece", ece), ("nll", nll)):
                measured[name + suffix] = partial(
                    lambda rows, measure, p: measure(truth[rows], p[rows], names), measure=measure, p=probabilities
                )
    everything = np.ones(len(truth), bool)
    found = {"accuracy": float((answer.predicted == truth).mean())}
    found |= {name: measure(everything) for name, measure in measured.items()}
    if errors:
        found |= {f"{name}_error": standard_error(measure, len(truth)) for name, measure in measured.items()}
    return found


def rare(truth: np.ndarray) -> list[str]:
    """The classes that make up less than RARE of these samples."""
    names, counts = np.unique(truth, return_counts=True)
    return names[counts < RARE * len(truth)].tolist()


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Over the classes that occur in `truth`, so that every method's mean has the same parts."""
    return float(f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0))


def auc(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> float:
    """Over the classes that have samples and are not all there is; NaN where there are none."""
    asked = [i for i, name in enumerate(names) if 0 < (truth == name).sum() < len(truth)]
    areas = [roc_auc_score(truth == names[i], probabilities[:, i]) for i in asked]
    return float(np.mean(areas)) if areas else math.nan


def ece(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    target, given = known(truth, probabilities, names)
    if not len(target):
        return math.nan
    # a sum of 1 + 1e-7 would be taken for logits
    return float(
        multiclass_calibration_error(
            torch.from_numpy(given.clip(0, 1)), torch.from_numpy(target), num_classes=len(names), n_bins=BINS
        )
    )


def nll(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> float:
    target, given = known(truth, probabilities, names)
    if not len(target):
        return math.nan
    return float(log_loss(target, given, labels=np.arange(len(names))))


def known(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Indices into `names` and probabilities in float64 of the samples whose class the classifier knows at all."""
    rows = np.isin(truth, names)
    given = probabilities[rows].astype(np.float64)
    return np.searchsorted(names, truth[rows]), given / given.sum(1, keepdims=True)


def temperature(truth: np.ndarray, probabilities: np.ndarray, names: list[str]) -> float:
    """What logits have to be divided by for the smallest NLL on these samples, from 0.05 to 20; 1 where none is of a class that
    the classifier knows."""
    if not np.isin(truth, names).any():
        return 1.0
    found = minimize_scalar(
        lambda log_t: nll(truth, tempered(probabilities, math.exp(log_t)), names),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return math.exp(found.x)


def tempered(probabilities: np.ndarray, t: float) -> np.ndarray:
    """softmax(logits / t); logarithms of probabilities are logits up to a constant a row."""
    given = probabilities.astype(np.float64)
    return softmax(np.log(given.clip(np.finfo(np.float64).tiny)) / t, axis=1)


def standard_error(measure: Callable[[np.ndarray], float], samples: int) -> float:
    """Of a metric because the test split is finite: the jackknife that leaves out one part at a time (Efron and Tibshirani
    1993, section 11.5)."""
    parts = min(PARTS, samples)
    if parts < 2:
        return math.nan
    part = np.random.default_rng(0).permutation(samples) % parts
    left_out = np.array([measure(part != p) for p in range(parts)])
    return float(math.sqrt(parts - 1) * np.nanstd(left_out)) if np.isfinite(left_out).any() else math.nan


def interval_of(name: str, values: list[float], error: float) -> dict[str, float]:
    """Mean and 95% interval of a metric whose standard error is known: Student's t over the draws and over the parts of the
    jackknife, added in quadrature."""
    mean = float(np.mean(values))
    half = math.hypot(t_half(values), stats.t.ppf(0.975, PARTS - 1) * error)
    most = math.inf if name.startswith("nll") else 1.0
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(most, mean + half)}
