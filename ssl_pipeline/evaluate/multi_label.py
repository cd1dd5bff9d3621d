"""Classification where a sample has several labels: one logistic regression a label on the frozen features.

    map   average precision of each label, mean over labels (Everingham et al. 2010, "The PASCAL VOC Challenge", section 4.2,
          without its interpolation)
    auc   area under the ROC curve of each label, mean over labels

The L2 penalty, one for all labels, is chosen on the validation split. Labels that no test sample has, or all have, are left out of
the means; labels that are in no training sample cannot be learnt and are not asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler
from torch import Tensor

from ssl_pipeline.evaluate.baselines import Job, Training, fresh, logits_of, train_on_labels
from ssl_pipeline.evaluate.classification import PENALTIES, Features, Labels, labels_of
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.scores import interval_of, standard_error
from ssl_pipeline.evaluate.settings import Shots, named, share
from ssl_pipeline.evaluate.settings_multi_label import MultiLabel
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

MEASURES = {"map": average_precision_score, "auc": roc_auc_score}


@dataclass(frozen=True)
class Tags(Labels):
    """The labelled samples of a pack, whose `classes` hold several labels each."""

    separator: str = "|"

    @property
    def names(self) -> list[str]:
        return sorted({tag for said in self.classes["train"] for tag in self.parted(said)})

    def parted(self, said: str) -> list[str]:
        return [tag.strip() for tag in said.split(self.separator) if tag.strip()]

    def hot(self, split: str) -> np.ndarray:
        """bool `[n, labels]`"""
        known, names = MultiLabelBinarizer(classes=self.names), set(self.names)
        said = [[tag for tag in self.parted(one) if tag in names] for one in self.classes[split]]
        return known.fit_transform(said).astype(bool)

    def subset(self, shots: Shots, draw: int) -> np.ndarray:
        """A share of the training samples, one at least."""
        count = len(self.classes["train"])
        if shots == "all" or isinstance(shots, int):
            return np.arange(count)
        seed = hashlib.sha256(f"{draw}".encode()).digest()[:8]
        order = np.random.default_rng(int.from_bytes(seed, "big")).permutation(count)
        return order[: max(1, round(share(shots) * count))]

    def target(self, chosen: np.ndarray) -> Tensor:
        return torch.from_numpy(self.hot("train")[chosen].astype(np.float32))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target)


def own(recipe: Recipe, pack: Pack, encoder: Any, features: Features, folder: Path, settings: MultiLabel) -> Result:
    """The probe on these features of every split."""
    tags = tags_of(pack, settings)
    facts = {"classes": tags.names, "test_samples": len(tags.rows["test"])}
    return Result(probed([features], tags, settings), facts=facts)


def baselines(recipe: Recipe, pack: Pack, settings: MultiLabel, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    tags = tags_of(pack, settings)
    step("random encoder")
    starts = [fresh(recipe, pack, len(tags.names), draw) for draw in range(settings.draws)]
    random = [{s: embed(start[0], pack.samples(s), recipe.pretrain) for s in SPLITS} for start in starts]  # type: ignore[arg-type]
    found = {"random encoder": probed(random, tags, settings), "chance": at_chance(tags, settings)}
    if settings.supervised_steps:
        training, metrics = Training(settings.supervised_steps, settings.supervised_views), Metrics()
        for shots in settings.shots:
            answers = []
            for draw in range(settings.draws):
                step(f"supervised, {shots} of the labels, draw {draw + 1} of {settings.draws}")
                start = fresh(recipe, pack, len(tags.names), draw)
                model = train_on_labels(recipe, pack, tags, Job(shots, draw, training), start)
                answers.append(logits_of(recipe, pack, model, "test")[tags.rows["test"]].numpy())
            metrics |= summarize(answers, tags, shots)
        found["supervised"] = metrics
    return found


def tags_of(pack: Pack, settings: MultiLabel) -> Tags:
    """Raises PipelineError where nothing is labelled, or no sample has two labels."""
    labels = labels_of(pack)
    tags = Tags(labels.rows, labels.classes, settings.separator)
    if not any(len(tags.parted(said)) > 1 for said in tags.classes["train"]):
        raise PipelineError(
            f"multi_label: no training sample has two labels with {settings.separator!r} between them: name another separator, or "
            "use classification"
        )
    if not asked(tags.hot("test")).any():
        raise PipelineError("multi_label: no label tells test samples apart: label more samples or enlarge split.test")
    return tags


def probed(per_draw: list[Features], tags: Tags, settings: MultiLabel) -> Metrics:
    """`per_draw` has one set of features, or one for each draw (random encoders)."""
    metrics, sets = Metrics(), [tags.take(features) for features in per_draw]
    for shots in settings.shots:
        draws = len(sets) if shots == "all" else settings.draws
        answers = [linear(sets[draw % len(sets)], tags, tags.subset(shots, draw)) for draw in range(draws)]
        metrics |= summarize(answers, tags, shots)
    return metrics


def linear(x: Features, tags: Tags, chosen: np.ndarray) -> np.ndarray:
    """Scores of the test samples `[n, labels]`, with the penalty that is best on validation."""
    scaler = StandardScaler().fit(x["train"][chosen])
    train, validation, test = (
        scaler.transform(x["train"][chosen]),
        scaler.transform(x["validation"]),
        scaler.transform(x["test"]),
    )
    hot, held = tags.hot("train")[chosen], tags.hot("validation")
    best, answer = -1.0, np.empty(0)
    for penalty in PENALTIES:
        models = [learnt(train, column, penalty) for column in hot.T]
        score = mean(average_precision_score, held, np.stack([model(validation) for model in models], 1))
        if score > best or not answer.size:
            best, answer = score, np.stack([model(test) for model in models], 1)
    return answer


def learnt(train: np.ndarray, column: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
    """What scores samples for one label; of a label that all or none of these have, the same for all."""
    if column.all() or not column.any():
        return lambda x: np.full(len(x), float(column[0]))
    model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(train, column)
    return model.decision_function


def asked(hot: np.ndarray) -> np.ndarray:
    """Labels that some samples have and others have not."""
    return np.asarray(hot.any(0) & ~hot.all(0))


def mean(measure: Callable[..., float], hot: np.ndarray, scores: np.ndarray) -> float:
    """Over the labels that tell these samples apart; NaN where there are none."""
    values = [measure(hot[:, i], scores[:, i]) for i in np.flatnonzero(asked(hot))]
    return float(np.mean(values)) if values else float("nan")


def summarize(answers: list[np.ndarray], tags: Tags, shots: Shots) -> Metrics:
    """Of scores `[n, labels]` of the test samples, a draw each."""
    hot, metrics = tags.hot("test"), Metrics()
    for name, measure in MEASURES.items():
        values = [mean(measure, hot, scores) for scores in answers]
        error = standard_error(lambda rows, measure=measure: mean(measure, hot[rows], answers[0][rows]), len(hot))  # type: ignore[misc]
        metrics[f"multi_label/linear/{name}/{named(shots)}"] = interval_of(name, values, error)
    return metrics


def at_chance(tags: Tags, settings: MultiLabel) -> Metrics:
    """The same score for every sample: its precision is how common a label is, at every rank."""
    hot = tags.hot("test")
    values = {"map": float(hot[:, asked(hot)].mean()), "auc": 0.5}
    return {
        f"multi_label/linear/{name}/{named(shots)}": {"mean": value, "low": value, "high": value}
        for shots in settings.shots
        for name, value in values.items()
    }
