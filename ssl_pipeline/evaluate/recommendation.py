"""Recommendation: where does the item that a user chose next stand among all items?

    HR@k     share of users whose item is among the first k
    NDCG@k   1 / log2(1 + rank), 0 beyond k (Järvelin & Kekäläinen 2002, with one relevant item)
    MRR@k    1 / rank, 0 beyond k
    coverage@k   share of the items that are among the first k of any user
    novelty@k    mean share of users who did not choose the first k items, 1 - popularity (Vargas & Castells 2011, section 4.2)

HR, NDCG and MRR are also taken over the users whose item is in the head, the middle or the tail: items by how often they were
chosen in training, each a third of all interactions; and over those whose item was never chosen there (cold).

All items are ranked, not a sample of them, which would order methods otherwise (Krichene & Rendle 2020). Items that the user has
chosen before are left out. Of equal scores the asked item stands last: a constant score ranks nothing. Intervals are over
users.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings_recommendation import Recommendation, name
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

HELD_OUT = {"validation": 2, "test": 1}
"""The place of a split's item in a user's history, from the end."""
BUCKETS = ("head", "middle", "tail")
BATCH = 256
"""Users who are ranked at a time."""

Score = Callable[[np.ndarray], Tensor | np.ndarray]
"""Numbers of users -> the scores of all items for each, float `[users, items]`; the first item is 0 here."""


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Recommendation
) -> Result:
    """What the encoder ranks, from the users' embeddings `features["test"]`."""
    histories = Histories.of(pack.path, pack.facts["items"])
    embeddings = torch.tensor(features["test"])

    def score(users: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return encoder.scores(embeddings[users].to(encoder.device))

    def measured(score: Score) -> Metrics:
        return summarize(rank(score, histories, settings), settings, histories)

    items = np.asarray(pack.samples("test")["items"])
    controls = {name: measured(by_encoder(other, items)) for name, other in without(encoder).items()}
    facts = {"test_samples": histories.users, "items": histories.items}
    return Result(measured(score), controls=controls, facts=facts)


def without(encoder: Any) -> dict[str, Any]:
    """Copies of an encoder of described items, each with something taken from it: what the trained one reads off features and
    what off the items' identity."""
    if encoder.features is None:
        return {}
    alone, only, shuffled = (deepcopy(encoder) for _ in range(3))
    with torch.no_grad():
        alone.features.zero_()
        only.item.weight[1:-1] = only.item.weight[1:-1].mean(0)
        order = torch.randperm(encoder.items, generator=torch.Generator().manual_seed(0)) + 1
        shuffled.features[1:-1] = encoder.features[order.to(encoder.features.device)]
    return {"identity alone": alone, "features alone": only, "features shuffled": shuffled}


def baselines(recipe: Recipe, pack: Pack, settings: Recommendation, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    from ssl_pipeline.evaluate.recommendation_baselines import all_baselines

    histories = Histories.of(pack.path, pack.facts["items"])
    step("random encoder")
    scores = {"random encoder": by_encoder(fresh_encoder(recipe, pack, 0), np.asarray(pack.samples("test")["items"]))}
    scores |= all_baselines(histories, settings, step=step)
    return {
        method: summarize(rank(score, histories, settings), settings, histories) for method, score in scores.items()
    }


@dataclass(frozen=True)
class Histories:
    """All interactions by user, each one's in order; users and items count from 0."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    users: int
    items: int

    @classmethod
    def of(cls, pack: Path, items: int) -> Histories:
        """Those of a pack, which numbers its items from 1."""
        user, item, time = (np.load(pack / f"history.{name}.npy", mmap_mode="r") for name in ("user", "item", "time"))
        return cls(np.asarray(user), np.asarray(item) - 1, np.asarray(time), int(user[-1]) + 1, items)

    @cached_property
    def after(self) -> np.ndarray:
        """How many interactions of the same user come after each."""
        return np.cumsum(np.bincount(self.user))[self.user] - 1 - np.arange(len(self.user))

    def target(self, split: str) -> np.ndarray:
        """The held-out item of each user."""
        return self.item[self.after == HELD_OUT[split] - 1]

    def before(self, split: str, decay: float = 1.0) -> sparse.csr_array:
        """`[users, items]`: what was known before the split's item, `decay` to the number of interactions that lie between."""
        known = self.after >= HELD_OUT[split]
        weight = decay ** (self.after[known] - HELD_OUT[split]).astype(np.float32)
        where = self.user[known], self.item[known]
        return sparse.csr_array((weight.astype(np.float32), where), shape=(self.users, self.items))

    @cached_property
    def popularity(self) -> np.ndarray:
        """How many users chose each item in training."""
        return np.bincount(self.item[self.after >= HELD_OUT["validation"]], minlength=self.items)

    def buckets(self) -> dict[str, np.ndarray]:
        """name -> whether each user's test item is in it; those that hold no user are left out."""
        order = np.argsort(-self.popularity, kind="stable")
        before = np.cumsum(self.popularity[order]) - self.popularity[order]
        third = np.empty(self.items, int)
        third[order] = before * 3 // max(1, self.popularity.sum())
        target = self.target("test")
        cold = self.popularity[target] == 0
        found = {name: (third[target] == i) & ~cold for i, name in enumerate(BUCKETS)} | {"cold": cold}
        return {name: users for name, users in found.items() if users.any()}


@dataclass(frozen=True)
class Ranking:
    """What a method makes of every user."""

    rank: np.ndarray
    """Of the held-out item, from 1, in the order of users."""
    coverage: dict[int, float]
    """k -> share of the items that are among the first k of any user."""
    novelty: dict[int, float]
    """k -> mean share of users who did not choose an item that is among the first k."""


def rank(score: Score, histories: Histories, settings: Recommendation, split: str = "test") -> Ranking:
    """Raises PipelineError where a score is not finite: it has no place in a ranking."""
    target, seen = histories.target(split), histories.before(split)
    ranks, most = [], min(max(settings.cutoffs), histories.items)
    unknown = 1 - torch.from_numpy(histories.popularity) / histories.users
    novel = {k: torch.zeros(2, dtype=torch.float64) for k in settings.cutoffs}  # sum and count
    shown = {k: torch.zeros(histories.items, dtype=torch.bool) for k in settings.cutoffs}
    for at in range(0, histories.users, BATCH):
        users = np.arange(at, min(at + BATCH, histories.users))
        scores = torch.as_tensor(score(users)).float().cpu()
        if not scores.isfinite().all():
            raise PipelineError("recommendation: scores are not finite: the encoder is no usable one, train it again")
        known = torch.from_numpy(seen[users].toarray() > 0)
        scores = scores.masked_fill(known, -torch.inf)
        own = scores.gather(1, torch.from_numpy(target[users].astype(np.int64))[:, None])
        ranks.append((scores >= own).sum(1).numpy())  # itself included
        top = scores.topk(most, dim=1)
        for k, items in shown.items():
            first = top.indices[:, :k][top.values[:, :k] > -torch.inf]
            items[first] = True
            novel[k] += torch.tensor([float(unknown[first].sum()), len(first)], dtype=torch.float64)
    coverage = {k: float(items.float().mean()) for k, items in shown.items()}
    return Ranking(np.concatenate(ranks), coverage, {k: float(total / count) for k, (total, count) in novel.items()})


def per_user(rank: np.ndarray, cutoff: int) -> dict[str, np.ndarray]:
    """The measures that are means over users, one value a user."""
    inside = rank <= cutoff
    return {
        "hr": inside.astype(float),
        "ndcg": np.where(inside, 1 / np.log2(1 + rank), 0.0),
        "mrr": np.where(inside, 1 / rank, 0.0),
    }


def summarize(ranking: Ranking, settings: Recommendation, histories: Histories) -> Metrics:
    """Metric name -> mean, low, high. Coverage and novelty are properties of all lists together: they have no interval."""
    summary: Metrics = {}
    for cutoff in settings.cutoffs:
        for measure, values in per_user(ranking.rank, cutoff).items():
            summary[name(measure, cutoff)] = interval(values, settings.resamples) | {"scores": values}
        for measure, value in (("coverage", ranking.coverage[cutoff]), ("novelty", ranking.novelty[cutoff])):
            summary[name(measure, cutoff)] = {"mean": value, "low": value, "high": value}
    summary = {metric: summary[metric] for metric in settings.metrics()}
    depth = 10 if 10 in settings.cutoffs else max(settings.cutoffs)
    for bucket, users in histories.buckets().items():
        for measure, values in per_user(ranking.rank[users], depth).items():
            summary[name(measure, depth, bucket)] = interval(values, settings.resamples)
    return summary


def interval(values: np.ndarray, resamples: int) -> dict[str, float]:
    """Mean and 95% interval by the percentile bootstrap (Efron & Tibshirani 1993, chapter 13). A user's value is one of a few
    (one a rank), so how often each is drawn is one multinomial draw, however many users there are."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), size=resamples)
    low, high = np.quantile(drawn @ distinct / len(values), (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def by_encoder(encoder: Any, items: np.ndarray) -> Score:
    """Scores of an interactions encoder; `items [users, length]` are the histories as the pack stores them."""

    def score(users: np.ndarray) -> Tensor:
        with torch.inference_mode():
            batch = {"items": torch.from_numpy(items[users]).to(encoder.device)}
            return encoder.scores(encoder(encoder.read(batch)))

    return score
