"""Neighbours and clusters: do test samples of one class lie together, before anything is learnt from labels?

    neighbours   each sample a query among all others by cosine: precision at 1, and mean average precision over the whole
                 ranking (Musgrave, Belongie, Lim 2020, "A Metric Learning Reality Check", on why the first alone misleads)
    k-means      on features of length 1, with as many clusters as classes: normalised mutual information (arithmetic mean),
                 adjusted Rand index, and accuracy once clusters are matched to classes one to one (Kuhn 1955; Xie, Girshick,
                 Farhadi 2016, section 4.2)
    recall       by neighbours in the training split, where it is asked for (`recall.py`)

Labels judge and teach nothing, so there is nothing to choose. Average precision depends on how many samples there are of each
class, and mutual information of few samples is above 0 by chance: compare with the baselines of the same table only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, average_precision_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from ssl_pipeline.evaluate import classic_audio, classic_text
from ssl_pipeline.evaluate.classics import parts, small
from ssl_pipeline.evaluate.classification import interval
from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.recall import Recall
from ssl_pipeline.evaluate.result import Cell, Metrics, Result, t_half
from ssl_pipeline.evaluate.settings_clustering import Clustering
from ssl_pipeline.features.extract import embed
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.compute import pick_device

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_audio import AudioEncoder
    from ssl_pipeline.recipe import Recipe

SHOWN = 1000
"""Points of the picture."""
RESAMPLES = 100
CHANCES = 20
"""Random clusterings whose mean is chance."""


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Clustering
) -> Result:
    """Both measures of the recipe's features, and a picture of them."""
    rows, classes = labelled(pack, settings)
    x = features["test"][rows]
    few = np.sort(np.random.default_rng(0).permutation(len(x))[:SHOWN])
    recall = Recall.among(pack, classes, settings.recall_at or ())
    metrics = measured([x], classes, settings) | recall.measured([(features["train"], x)])
    if recipe.promote and recipe.promote.metric in set(settings.metrics()) - set(metrics):
        raise PipelineError(
            f"promote.metric {recipe.promote.metric}: the training split has {len(recall.rows)} labelled samples only; promote by "
            "another metric or label more"
        )
    facts = {"classes": sorted(set(classes)), "test_samples": len(rows)}
    facts |= {"training_samples": len(recall.rows)} if recall.depths else {}
    return Result(metrics, {"projection": ("projection", projected(x[few]), classes[few].tolist())}, facts=facts)


def baselines(recipe: Recipe, pack: Pack, settings: Clustering, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    rows, classes = labelled(pack, settings)
    recall = Recall.among(pack, classes, settings.recall_at or ())
    splits, device = ("train", "test") if recall.depths else ("test",), pick_device(recipe.pretrain.device)

    def method(sets: list[dict[str, Any]]) -> Metrics:
        queries = [one["test"][rows] for one in sets]
        train = [one.get("train") for one in sets]
        return measured(queries, classes, settings) | recall.measured(list(zip(train, queries, strict=True)))

    step("random encoder")
    encoders: list[Any] = [fresh_encoder(recipe, pack, draw).to(device) for draw in range(settings.random_encoders)]
    random = [{split: embed(one, pack.samples(split), recipe.pretrain) for split in splits} for one in encoders]
    step("the raw input")
    raw = {split: raw_input(recipe, pack, split) for split in splits}
    return {
        "random encoder": method(random),
        raw["test"][0]: method([{split: given for split, (_, given) in raw.items()}]),
        "chance": at_chance(classes) | recall.at_chance(),
    }


def labelled(pack: Pack, settings: Clustering) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the test split that are measured, and their classes. Raises PipelineError where there is nothing to find."""
    column = pack.index("test")["label"]
    rows = np.flatnonzero(column.notna())
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: settings.test_samples])
    classes = column.to_numpy(dtype=object)[rows].astype(str)
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise PipelineError(
            f"clustering: {len(rows)} labelled test samples of {len(counts)} classes; it needs two classes, and two samples of "
            "one of them: label more samples, enlarge split.test or drop this evaluation"
        )
    return rows, classes


def measured(sets: Sequence[Any], classes: np.ndarray, settings: Clustering) -> Metrics:
    """All metrics of features `[n, dim]`, dense or sparse; of several sets (random encoders) the mean."""
    found = [neighbours(x, classes) for x in sets]
    clusters = [[kmeans(x, classes, seed) for seed in range(settings.seeds)] for x in sets]
    precision, average = (np.array([one[measure] for one in found]) for measure in (0, 1))  # [sets, queries]
    metrics = {
        "clustering/neighbours/precision_at_1/all": interval(precision.mean(1).tolist(), precision.shape[1]),
        "clustering/neighbours/map/all": cell(average.mean(1), average.mean(0).std() / math.sqrt(average.shape[1])),
    }
    for name, score in SCORES.items():
        values = np.array([[score(classes, one) for one in starts] for starts in clusters])  # [sets, seeds]
        draws = values.mean(1) if len(sets) > 1 else values[0]
        metrics[f"clustering/kmeans/{name}/all"] = cell(draws, resampled_error(score, classes, clusters[0][0]))
    return metrics


def neighbours(x: Any, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample of `[n, dim]` that is not alone in its class, the precision of the nearest other one (ties share) and the
    average precision of all others in their order, ties at one threshold: `[queries]` each."""
    unit = normalize(x)
    product = unit @ unit.T
    similarity = np.round(
        product.toarray() if sparse.issparse(product) else product, 6
    )  # what rounding leaves is no order
    codes, n = np.unique(classes, return_inverse=True)[1], len(classes)
    others = ~np.eye(n, dtype=bool)
    similarity, same = similarity[others].reshape(n, n - 1), (codes[:, None] == codes)[others].reshape(n, n - 1)
    queries = same.any(1)
    similarity, same = similarity[queries], same[queries]
    nearest = similarity == similarity.max(1, keepdims=True)
    average = [average_precision_score(right, order) for right, order in zip(same, similarity, strict=True)]
    return (same & nearest).sum(1) / nearest.sum(1), np.array(average)


def kmeans(x: Any, classes: np.ndarray, seed: int) -> np.ndarray:
    """A cluster for each sample of `[n, dim]`, `[n]`."""
    model = KMeans(len(set(classes)), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: a collapsed encoder
        return model.fit_predict(normalize(x))


def matched_accuracy(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Share of samples whose cluster is their class's, under the one-to-one matching that is best."""
    counts = contingency_matrix(classes, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "nmi": normalized_mutual_info_score, "ari": adjusted_rand_score, "matched_accuracy": matched_accuracy
}  # fmt: skip
"""Of classes and clusters, each `[n]`."""


def resampled_error(score: Callable[..., float], classes: np.ndarray, clusters: np.ndarray) -> float:
    """The standard error of a score over test samples, by the bootstrap."""
    chance = np.random.default_rng(0)
    draws = chance.integers(len(classes), size=(RESAMPLES, len(classes)))
    return float(np.std([score(classes[rows], clusters[rows]) for rows in draws]))


def cell(draws: np.ndarray, error: float) -> Cell:
    """Mean and 95% interval: Student's t over draws and the test split's standard error, added in quadrature."""
    mean, half = float(draws.mean()), math.hypot(t_half(draws), 1.96 * error)
    return {"mean": mean, "low": mean - half, "high": min(1.0, mean + half)}


def at_chance(classes: np.ndarray) -> Metrics:
    """Of others in random order, in closed form, and of samples put into clusters at random, by trying.

    Of m others of which r are right, the one at rank i is right with r / m, and then (i - 1) (r - 1) / (m - 1) right ones are
    expected before it: the mean average precision is the mean over i of (1 + that) / i."""
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    m, right = len(classes) - 1, counts[codes] - 1
    right = right[right > 0]
    before = (right - 1) / max(1, m - 1)
    harmonic = (1 / np.arange(1, m + 1)).sum()
    metrics = {
        "clustering/neighbours/precision_at_1/all": exactly((right / m).mean()),
        "clustering/neighbours/map/all": exactly((harmonic / m * (1 - before) + before).mean()),
    }
    chance = np.random.default_rng(0)
    clusters = chance.integers(len(counts), size=(CHANCES, len(classes)))
    for name, score in SCORES.items():
        values = [score(classes, one) for one in clusters]
        low, high = np.quantile(values, [0.025, 0.975])
        metrics[f"clustering/kmeans/{name}/all"] = exactly(np.mean(values)) | {"low": float(low), "high": float(high)}
    return metrics


def exactly(value: Any) -> Cell:
    return {"mean": float(value), "low": float(value), "high": float(value)}


def raw_input(recipe: Recipe, pack: Pack, split: str = "test") -> tuple[str, Any]:
    """What a split's samples are without any encoder `[n, dim]`, and what that is called."""
    stored, kind = pack.samples(split), recipe.encoder.kind
    if kind == "text":
        texts = {each: classic_text.texts_of(pack, each) for each in ("train", "test")}
        return "TF-IDF", classic_text.tfidf_features(texts)[split]
    if kind == "audio":
        return "MFCC", classic_audio.mfcc_features(np.asarray(stored["audio"]), cast("AudioEncoder", recipe.encoder))
    if kind == "series":
        spread = np.asarray(pack.samples("train")["values"]).std((0, 2))[:, None] + 1e-9
        return "raw values", (np.asarray(stored["values"]) / spread).reshape(len(stored["values"]), -1)
    if kind == "video":
        middle = (part[:, part.shape[1] // 2] for part in parts(stored["clip"]))
        return "raw pixels", np.concatenate([small(frames) for frames in middle])
    return "raw pixels", np.concatenate([small(part) for part in parts(stored["image"])])


def projected(x: np.ndarray) -> np.ndarray:
    """`[n, dim]` -> `[n, 2]`, neighbours near neighbours (van der Maaten & Hinton 2008, t-SNE), by cosine and from the principal
    components on. One thread: sums in another order would end in another picture."""
    perplexity = min(30.0, (len(x) - 1) / 3)
    start = (
        "pca" if np.ptp(x, 0).any() else "random"
    )  # components of a single point are NaN, on which scikit-learn crashes
    model = TSNE(2, perplexity=perplexity, init=start, metric="cosine", random_state=0)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are all alike
        return model.fit_transform(x)
