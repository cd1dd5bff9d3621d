"""This project's evaluations beside published numbers of the same protocol: `python -m benchmarks.published [--json]`, one minute.

All data is in packages or below; a part whose package is missing is left out, with a word. `tolerance` is how far apart the two
may stand: the rounding of the source, or chance and differences that the protocol names. `tests/test_published.py` holds every row
to it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import scale

from benchmarks.race import report
from ssl_pipeline.evaluate import clustering
from ssl_pipeline.evaluate.classic_series import mini_rocket, nearest_neighbor
from ssl_pipeline.evaluate.classification import knn, linear_probe
from ssl_pipeline.evaluate.detection import average_precision
from ssl_pipeline.evaluate.recommendation import Histories, per_user, rank
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.evaluate.settings_recommendation import Recommendation
from ssl_pipeline.evaluate.settings_translation import Translation
from ssl_pipeline.evaluate.translation import Pairs, Run, summarize
from ssl_pipeline.ingest.demo_series import cases
from ssl_pipeline.part import PipelineError

UNIFORM = 1e9
"""A temperature at which all neighbours weigh the same, up to ties."""


@dataclass(frozen=True)
class Row:
    evaluation: str
    data: str
    protocol: str
    metric: str
    ours: float
    published: float
    tolerance: float
    source: str


NEAREST = {"GunPoint": 0.0867, "ItalyPowerDemand": 0.0447, "ArrowHead": 0.2, "OSULeaf": 0.4793, "ACSF1": 0.46}
"""Errors."""
SHORT = {"GunPoint": 0.993333, "ItalyPowerDemand": 0.968902}
LONG = {"ArrowHead": 0.862857, "OSULeaf": 0.958678, "ACSF1": 0.92}
"""MiniRocket's accuracies."""


def nearest_neighbors() -> Iterator[Row]:
    source = "Dau et al. 2018, The UCR Time Series Archive: DataSummary.csv, ED (w=0)"
    for name, error in NEAREST.items():
        train, labels, test, classes = archive(name)
        ours = float((nearest_neighbor(train, labels, test) == classes).mean())
        protocol = "1-NN, Euclidean distance, the archive's split"
        yield Row("classification, series", name, protocol, "accuracy", ours, 1 - error, 6e-5, source)


def rockets(published: dict[str, float]) -> Iterator[Row]:
    source = "Dempster et al. 2021, MiniRocket: results/accuracy_ucr109_resamples.csv, resample 0"
    for name, accuracy in published.items():
        train, labels, test, classes = archive(name)
        ours = float((mini_rocket(train, labels, test) == classes).mean())
        protocol = "MiniRocket and ridge, the archive's split; the biases are drawn"
        yield Row("classification, series", name, protocol, "accuracy", ours, accuracy, 0.02, source)


def archive(name: str) -> list[np.ndarray]:
    """Series `[n, channels, steps]` and classes of the training split, then of the test split."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise PipelineError("package aeon, which carries the UCR archive's sets, is not installed")
    found = []
    for split in ("TRAIN", "TEST"):
        file = Path(spec.origin).parent / "datasets" / "data" / name / f"{name}_{split}.ts"
        values, labels = zip(*cases(file), strict=True)
        found += [np.stack(values), np.array(labels)]
    return found


def probes() -> Iterator[Row]:
    x, y = load_digits(return_X_y=True)
    cut, n, x = int(0.8 * len(x)), int(0.9 * len(x)), x / x.max()
    source = "scikit-learn, Digits Classification Exercise (with lbfgs): output"
    even = levelled(x)
    ours = knn(even[:n], y[:n], even[n:], Classification(k=5, temperature=UNIFORM)) == y[n:]
    protocol = "5-NN, Euclidean distance, first 90% against the rest"
    yield Row("classification, kNN", "digits", protocol, "accuracy", float(ours.mean()), 0.961111, 1e-6, source)
    probe = linear_probe(x[:cut], y[:cut], x[cut:n], y[cut:n])
    protocol = "logistic regression on the same; ours on 80%, the next 10% choosing its penalty, on standardised pixels"
    ours = probe.predict(x[n:]) == y[n:]
    yield Row("classification, linear", "digits", protocol, "accuracy", float(ours.mean()), 0.933333, 0.02, source)


def levelled(x: np.ndarray, far: float = 100) -> np.ndarray:
    """`[n, dim]` with a coordinate more, that gives all rows one length, large beside their distances: what goes by the cosine then
    goes by Euclidean distance."""
    radius = far * np.linalg.norm(x, axis=1).max()
    return np.column_stack([x, np.sqrt(radius**2 - (x**2).sum(1))])


def clusters() -> Iterator[Row]:
    x, y = load_digits(return_X_y=True)
    x = scale(x)
    found = [clustering.kmeans(levelled(x), y, seed) for seed in range(10)]
    best = min(found, key=lambda labels: sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum() for k in range(10)))
    source = "scikit-learn 0.19, A demo of K-Means clustering on the handwritten digits data: k-means++"
    for measure, published in (("nmi", 0.625), ("ari", 0.465)):
        protocol = "k-means++ on standardised pixels, Euclidean, the tightest of ten starts; the starts are drawn"
        ours = clustering.SCORES[measure](y, best)
        yield Row("clustering, k-means", "digits", protocol, measure, ours, published, 5e-3, source)


RANKS = {"A": [100] * 5, "B": [40, 40, 8437, 9266, 4482], "C": [212, 2, 743, 5342, 1548]}
"""Of the item that five users of each recommender chose."""
RANKED = {"A": (0.150, 0.0), "B": (0.122, 0.0), "C": (0.208, 0.2)}
"""NDCG of the whole ranking, and HR@10."""


def rankings() -> Iterator[Row]:
    users, items, seen = 5, 10_000, 2
    chosen = np.tile(np.arange(seen + 1), users)  # the last one is asked for
    histories = Histories(np.repeat(np.arange(users), seen + 1), chosen, np.arange(len(chosen)), users, items)
    source = "Krichene & Rendle 2020, On Sampled Metrics for Item Recommendation: tables 1 and 2"
    for name, ranks in RANKS.items():
        scores = np.zeros((users, items), np.float32)
        scores[:, :seen], scores[:, seen] = 3, 1
        for user, place in enumerate(ranks):
            scores[user, seen + 1 : seen + place] = 2
        found = rank(lambda users, scores=scores: scores[users], histories, Recommendation()).rank  # type: ignore[misc]
        ours = float(per_user(found, items)["ndcg"].mean()), float(per_user(found, 10)["hr"].mean())
        for metric, own, published in zip(("NDCG", "HR@10"), ours, RANKED[name], strict=True):
            data, protocol = f"recommender {name}", "five users, all 10,000 items ranked, one relevant"
            yield Row("recommendation", data, protocol, metric, own, published, 5e-4, source)


FOUND = [
    [(5, 0.236, 258.15, 41.29, 606.41, 285.07)],
    [(4, 0.318, 61.00, 22.75, 565.00, 632.42), (3, 0.726, 12.66, 3.32, 281.26, 275.23)],
    [
        (5, 0.546, 87.87, 276.25, 384.29, 379.43), (2, 0.3, 0.00, 3.66, 142.15, 316.06),
        (1, 0.407, 296.55, 93.96, 314.97, 152.79), (1, 0.611, 328.94, 97.05, 342.49, 122.98),
        (1, 0.335, 356.62, 95.47, 372.33, 147.55), (1, 0.805, 464.08, 105.09, 495.74, 146.99),
        (1, 0.953, 276.11, 103.84, 291.44, 150.72),
    ],
    [(6, 0.699, 0.00, 2.87, 601.00, 421.52)],
]  # fmt: skip
"""COCO's own fake detections in its images 42, 73, 74 and 133: class, score, box."""
TRUE = [
    [(5, 214.15, 41.29, 562.41, 285.07)],
    [(3, 13.00, 22.75, 548.98, 632.42), (3, 1.66, 3.32, 270.26, 275.23)],
    [
        (5, 61.87, 276.25, 358.29, 379.43), (2, 2.75, 3.66, 162.15, 316.06), (1, 295.55, 93.96, 313.97, 152.79),
        (1, 326.94, 97.05, 340.49, 122.98), (1, 356.62, 95.47, 372.33, 147.55), (1, 462.08, 105.09, 493.74, 146.99),
        (1, 277.11, 103.84, 292.44, 150.72),
    ],
    [(6, 13.99, 2.87, 640.00, 421.52)],
]  # fmt: skip
PRECISIONS = {"ap": 0.706, "ap50": 0.901, "ap75": 0.846, "class 1": 0.725, "class 3": 0.454, "class 5": 0.65}
"""Of classes that are numbered from 0 there."""


def detections() -> Iterator[Row]:
    found = [
        {"labels": torch.tensor([f[0] for f in image]), "scores": torch.tensor([f[1] for f in image]),
         "boxes": torch.tensor([f[2:] for f in image])}
        for image in FOUND
    ]  # fmt: skip
    true = [{"labels": torch.tensor([t[0] for t in i]), "boxes": torch.tensor([t[1:] for t in i])} for i in TRUE]
    ours = average_precision(found, true, [str(code) for code in range(1, 7)])
    source = "torchmetrics, tests/detection/test_map.py: what pycocotools says"
    for metric, published in PRECISIONS.items():
        protocol = "COCO's average precision of its fake results in four images"
        yield Row("detection", "COCO val2014", protocol, metric, ours[metric], published, 6e-4, source)


SENTENCES = [
    (
        "Co nás nejvíc trápí, protože lékaři si vybírají, kdo bude žít a kdo zemře.",
        "Nejvíce smutní jsme z toho, že musíme rozhodovat o tom, kdo bude žít a kdo zemře.",
        0.3914078509,
    ),
    (
        "Nebo prostě nemají vybavení, které by jim pomohlo, uvedli lékaři.",
        "A někdy nemáme ani potřebný materiál, abychom jim pomohli, popsali lékaři.",
        0.3122557079,
    ),
    (
        "Lapali po dechu, jejich životy skončily dřív, než skutečně začaly.",
        "Lapali po dechu a pak jejich život skončil - dřív, než skutečně mohl začít, připomněli.",
        0.5715704367,
    ),
]
"""A translation, its reference, and the published chrF."""


def translations() -> Iterator[Row]:
    settings, source = Translation(resamples=100), "Post 2018, sacreBLEU: test/test_chrf.py, of sentences"
    for number, (said, reference, published) in enumerate(SENTENCES, 1):
        pairs = Pairs({"test": pd.DataFrame({"target": [reference]})}, None, 0)  # type: ignore[arg-type]
        metrics, _ = summarize([Run([said])], pairs, settings)
        ours = next(cell["mean"] for name, cell in metrics.items() if "/chrf/" in name)
        protocol = "chrF of one sentence against one reference; ours without smoothing"
        yield Row("translation", f"Czech sentence {number}", protocol, "chrF", ours, published, 1e-5, source)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "1-nearest neighbour": nearest_neighbors,
    "MiniRocket": lambda: rockets(SHORT),
    "MiniRocket, longer series": lambda: rockets(LONG),
    "probes": probes,
    "clustering": clusters,
    "recommendation": rankings,
    "detection": detections,
    "translation": translations,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    as_json, rows = parser.parse_args().json, []
    for name, part in PARTS.items():
        try:
            rows += [asdict(row) for row in part()]
        except PipelineError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    if not as_json:
        rows = [row | {name: f"{row[name]:.4f}" for name in ("ours", "published")} for row in rows]
    report("Ours beside published numbers", rows, as_json)


if __name__ == "__main__":
    main()
