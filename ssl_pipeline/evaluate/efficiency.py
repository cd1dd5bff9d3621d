"""Label efficiency: accuracy against labels, and how many labels self-supervision saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_pipeline.evaluate.result import Metrics

Point = tuple[float | str, float, float, float]
"""Labels a class or "all", mean accuracy, low, high."""
CURVES = {"linear": "", "supervised": "", "full": ", fine-tuned"}
"""Probes with a curve, and what their method's name gets."""


def efficiency_table(
    methods: Mapping[str, Metrics], labels_a_class: Mapping[str, float] | None = None
) -> dict[str, list[Point]]:
    """method -> accuracy of its linear probe, of the fine-tuned encoder or of the supervised model, by labels a class. Shares
    of the labels need to know how many these are on average: without `labels_a_class` they are left out."""
    table: dict[str, list[Point]] = {}
    for method, metrics in methods.items():
        for name, cell in metrics.items():
            kind, probe, measure, shots = (name.split("/") + [""] * 3)[:4]
            if kind not in ("classification", "fine_tuning") or probe not in CURVES or measure != "accuracy":
                continue
            count = shots if shots == "all" else int(shots) if shots.isdigit() else (labels_a_class or {}).get(shots)
            if count is not None:
                curve = method + (CURVES[probe] if method != "supervised" else "")
                table.setdefault(curve, []).append((count, cell["mean"], cell["low"], cell["high"]))
    return table


def labels_saved(ours: Metrics, supervised: Metrics, labels_a_class: Mapping[str, float]) -> dict[str, Any] | None:
    """How many times as many labels supervised training from scratch needs to be as accurate as the linear probe (or the
    fine-tuned encoder) at its fewest; between shot counts accuracy is taken as linear in the logarithm of labels.

    `{"labels": 10, "supervised_labels": 42, "factor": 4.2, "at_least": False}`, labels a class; `at_least` where even all labels
    do not suffice, the factor then being that of all. None where supervised training is as good with as few, or was left out.
    """
    mine, theirs = (by_labels(metrics, labels_a_class) if labels_a_class else [] for metrics in (ours, supervised))
    if not mine or not theirs:
        return None
    labels, accuracy = mine[0]
    counts, reached = (np.array(column, float) for column in zip(*theirs, strict=True))
    if labels not in counts or reached[counts <= labels].max() >= accuracy:
        return None
    enough = np.flatnonzero(reached >= accuracy)
    if len(enough):
        at = enough[0]
        share = (accuracy - reached[at - 1]) / (reached[at] - reached[at - 1])
        needed = math.exp((1 - share) * math.log(counts[at - 1]) + share * math.log(counts[at]))
    else:
        needed = float(counts[-1])
    return {
        "labels": labels, "supervised_labels": round(needed, 1), "factor": round(needed / labels, 2),
        "at_least": not len(enough),
    }  # fmt: skip


def by_labels(metrics: Metrics, labels_a_class: Mapping[str, float]) -> list[tuple[float, float]]:
    """Labels a class and accuracy of the one method that has a curve, fewest first."""
    found = [
        (labels_a_class[shots], cell["mean"])
        for name, cell in metrics.items()
        for _, probe, measure, shots in [name.split("/")]
        if probe in CURVES and measure == "accuracy" and shots in labels_a_class
    ]
    return sorted(found)


def said(saved: dict[str, Any]) -> str:
    """What `labels_saved` found, in a sentence."""
    much = f"{'more than ' if saved['at_least'] else ''}{saved['supervised_labels']:,.0f} labels a class"
    return (
        f"With {saved['labels']:,.0f} labels a class it is as accurate as supervised training with {much} "
        f"({saved['factor']:.1f} times as many)."
    )
