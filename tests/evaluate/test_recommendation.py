"""Ranks and metrics against loops, torchmetrics and scipy; baselines against loops and against what is known of them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from ssl_pipeline.encoders.interactions import build
from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder
from ssl_pipeline.evaluate import recommendation_baselines as baselines
from ssl_pipeline.evaluate.recommendation import (
    Histories,
    Ranking,
    by_encoder,
    interval,
    per_user,
    rank,
    summarize,
    without,
)
from ssl_pipeline.evaluate.settings_recommendation import Recommendation
from ssl_pipeline.ingest import demo_interactions
from ssl_pipeline.ingest.interactions import write
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing import interactions as packing

USERS, ITEMS = 60, 40


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Random histories of 4 to 20 different items, the popular ones more often."""
    random = np.random.default_rng(0)
    lengths = random.integers(4, 21, USERS)
    chance = 1 / np.arange(1, ITEMS + 1)
    items = [random.choice(ITEMS, n, replace=False, p=chance / chance.sum()) for n in lengths]
    user = np.repeat(np.arange(USERS), lengths)
    return Histories(user, np.concatenate(items), np.arange(len(user), dtype=float), USERS, ITEMS)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """With many ties."""
    return np.random.default_rng(1).integers(0, 12, (USERS, ITEMS)).astype(np.float32)


def sequences(histories):
    return [histories.item[histories.user == u].tolist() for u in range(USERS)]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranks_against_a_loop_seen_items_left_out_and_ties_last(split, histories, scores):
    settings = Recommendation(cutoffs=(3, 7))
    got = rank(lambda users: scores[users], histories, settings, split)
    held = {"validation": 2, "test": 1}[split]
    shown = {3: set(), 7: set()}
    for user, sequence in enumerate(sequences(histories)):
        target, seen = sequence[-held], set(sequence[:-held])
        others = [i for i in range(ITEMS) if i not in seen and i != target]
        assert got.rank[user] == 1 + sum(scores[user, i] >= scores[user, target] for i in others)
        for k, items in shown.items():
            # of equal scores at the end of the list any may be shown: those that must be, and those that may
            allowed = sorted((i for i in range(ITEMS) if i not in seen), key=lambda i: -scores[user, i])
            items.update(i for i in allowed if scores[user, i] > scores[user, allowed[k]])
    for k, items in shown.items():
        assert len(items) / ITEMS <= got.coverage[k] <= 1
    constant = rank(lambda users: np.zeros((len(users), ITEMS)), histories, settings, split)
    assert (constant.rank == ITEMS - np.array([len(s) - held for s in sequences(histories)])).all()


def test_coverage_of_lists_without_ties(histories):
    order = np.arange(ITEMS, 0, -1.0)
    got = rank(lambda users: np.tile(order, (len(users), 1)), histories, Recommendation(cutoffs=(2,)))
    shown = {i for s in sequences(histories) for i in [i for i in range(ITEMS) if i not in s[:-1]][:2]}
    assert got.coverage == {2: pytest.approx(len(shown) / ITEMS)}
    lists = [[i for i in range(ITEMS) if i not in s[:-1]][:2] for s in sequences(histories)]
    chosen = Counter(i for s in sequences(histories) for i in s[:-2])
    expected = np.mean([1 - chosen[i] / USERS for items in lists for i in items])
    assert got.novelty == {2: pytest.approx(expected)}


def test_buckets_are_thirds_of_all_interactions_and_cold_items(histories):
    chosen = Counter(i for s in sequences(histories) for i in s[:-2])
    total, before, third = sum(chosen.values()), 0, {}
    for item in sorted(chosen, key=lambda i: (-chosen[i], i)):
        third[item], before = ("head", "middle", "tail")[before * 3 // total], before + chosen[item]
    expected = [third.get(s[-1], "cold") for s in sequences(histories)]
    found = histories.buckets()
    assert {name: int(users.sum()) for name, users in found.items()} == Counter(expected)
    for name, users in found.items():
        assert [e == name for e in expected] == users.tolist()


def test_what_a_described_encoder_reads_off_features_and_what_off_identity(tmp_path):
    values = np.random.default_rng(0).normal(size=(ITEMS + 2, 4)).astype(np.float32)
    np.save(tmp_path / "item_features.npy", values)
    facts = {"items": ITEMS, "item_features": {"dim": 4, "file": "item_features.npy"}, "folder": str(tmp_path)}
    encoder = build(InteractionsEncoder(width=16), facts).eval()
    found = without(encoder)
    torch.testing.assert_close(found["identity alone"].table(), encoder.item.weight)
    only = found["features alone"].table()[1:-1] - encoder.describe(encoder.features[1:-1])
    assert only.std(0).max() < 1e-6  # the same for every item
    assert not torch.equal(found["features shuffled"].features, encoder.features)
    assert torch.equal(found["features shuffled"].features.sort(0).values, encoder.features.sort(0).values)
    del facts["item_features"]
    assert without(build(InteractionsEncoder(width=16), facts)) == {}


def test_metrics_equal_torchmetrics(histories):
    values = np.random.default_rng(2).random((USERS, ITEMS), np.float32)  # it takes scores below 0 for not retrieved
    ranking = rank(lambda users: values[users], histories, Recommendation())
    summary = summarize(ranking, Recommendation(), histories)
    rows, relevant, index = [], [], []
    for user, sequence in enumerate(sequences(histories)):
        for item in set(range(ITEMS)) - set(sequence[:-1]):
            rows.append(values[user, item])
            relevant.append(item == sequence[-1])
            index.append(user)
    given = torch.tensor(np.array(rows)), torch.tensor(relevant), torch.tensor(index)
    for k in (5, 10, 20):
        for measure, metric in (("hr", RetrievalHitRate), ("ndcg", RetrievalNormalizedDCG), ("mrr", RetrievalMRR)):
            expected = metric(top_k=k)(given[0], given[1], indexes=given[2]).item()
            assert summary[f"recommendation/full/{measure}_at_{k}/all"]["mean"] == pytest.approx(expected, rel=1e-5)


def test_intervals_are_the_percentile_bootstraps():
    values = per_user(np.random.default_rng(0).geometric(0.03, 500), 10)["ndcg"]
    ours = interval(values, 20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours["mean"] == pytest.approx(values.mean())
    assert ours["low"] == pytest.approx(theirs.low, abs=1e-3) and ours["high"] == pytest.approx(theirs.high, abs=1e-3)


def test_a_perfect_and_a_hopeless_ranking(histories):
    settings, halves = Recommendation(cutoffs=(1, 10)), {1: 0.5, 10: 0.5}
    perfect = summarize(Ranking(np.ones(USERS, int), halves, halves), settings, histories)
    assert list(perfect)[: len(settings.metrics())] == settings.metrics()
    assert all(
        cell["mean"] == 1 for metric, cell in perfect.items() if "coverage" not in metric and "novelty" not in metric
    )
    hopeless = summarize(Ranking(np.full(USERS, 11), halves, halves), settings, histories)
    assert all(
        cell["high"] == 0 for metric, cell in hopeless.items() if "coverage" not in metric and "novelty" not in metric
    )
    tenth = per_user(np.array([10]), 10)
    assert tenth["hr"] == 1 and tenth["ndcg"] == 1 / math.log2(11) and tenth["mrr"] == 0.1


def test_scores_that_are_no_numbers_are_refused(histories):
    broken = np.full((USERS, ITEMS), np.nan)
    with pytest.raises(PipelineError, match="scores are not finite"):
        rank(lambda users: broken[users], histories, Recommendation())


def test_settings_name_their_metrics_and_refuse_repeats():
    assert "recommendation/full/ndcg_at_10/all" in Recommendation().metrics()
    assert len(set(Recommendation().metrics())) == 15
    with pytest.raises(ValidationError, match="names a length twice"):
        Recommendation(cutoffs=(5, 5))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_baselines_against_loops(split, histories):
    held = {"validation": 2, "test": 1}[split]
    known = [s[:-held] for s in sequences(histories)]
    users = np.arange(USERS)
    x = np.zeros((USERS, ITEMS))
    for user, sequence in enumerate(known):
        x[user, sequence] = 1
    made = baselines.all_baselines(histories, Recommendation(neighbours=6, penalty=9, decay=0.8), split)
    np.testing.assert_array_equal(made["popularity"](users), np.tile(x.sum(0), (USERS, 1)))

    scale = 1 / np.maximum(np.sqrt(x.sum(0, dtype=np.float32)), np.float32(1e-9))
    cosine = scale[:, None] * (x.T @ x).astype(np.float32) * scale
    np.fill_diagonal(cosine, 0)
    for i in range(ITEMS):
        cosine[i, sorted(range(ITEMS), key=lambda j: (-cosine[i, j], j))[6:]] = 0
    np.testing.assert_allclose(made["item-kNN"](users), x @ cosine, rtol=1e-4, atol=1e-6)

    # EASE's weights solve one ridge regression an item, on the others (Steck 2019, section 3.1)
    weights = np.zeros((ITEMS, ITEMS))
    for j in range(ITEMS):
        others = [i for i in range(ITEMS) if i != j]
        a = x[:, others]
        weights[others, j] = np.linalg.solve(a.T @ a + 9 * np.eye(ITEMS - 1), a.T @ x[:, j])
    np.testing.assert_allclose(made["EASE"](users), x @ weights, rtol=1e-3, atol=1e-5)
    faded = np.zeros_like(x)
    for user, sequence in enumerate(known):
        for back, item in enumerate(reversed(sequence)):
            faded[user, item] = 0.8**back
    np.testing.assert_allclose(made["EASE, recency"](users), faded @ weights, rtol=1e-3, atol=1e-5)

    moves = np.zeros((ITEMS, ITEMS))
    for sequence in known:
        for before, after in pairwise(sequence):
            moves[before, after] += 1
    expected = np.array([moves[s[-1]] for s in known]) + x.sum(0) / x.sum()
    np.testing.assert_allclose(made["Markov chain"](users), expected, rtol=1e-5)


def test_too_many_items_for_ease(histories, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_ITEMS", 10)
    assert set(baselines.all_baselines(histories, Recommendation())) == {"popularity", "item-kNN", "Markov chain"}
    with pytest.raises(PipelineError, match="EASE inverts a matrix of 40 items"):
        baselines.ease_weights(histories, "test", 500)


@pytest.fixture(scope="module")
def movielens(tmp_path_factory):
    tree, pack = tmp_path_factory.mktemp("data") / "tree", tmp_path_factory.mktemp("pack")
    write(demo_interactions.movielens_100k(), tree)
    facts = packing.write(tree, pack, InteractionsEncoder())
    return pack, facts


@pytest.mark.slow
def test_movielens_gives_the_known_bars(movielens):
    """HR@10 and NDCG@10, leave-one-out, 5-core, seen items left out."""
    pack, facts = movielens
    histories, settings = Histories.of(pack, facts["items"]), Recommendation()
    found = {
        m: summarize(rank(s, histories, settings), settings, histories)
        for m, s in baselines.all_baselines(histories, settings).items()
    }
    known = {
        "popularity": (0.087, 0.044), "item-kNN": (0.107, 0.056), "EASE": (0.149, 0.076), "EASE, recency": (0.198, 0.104)
    }  # fmt: skip
    for method, bars in known.items():
        for measure, bar in zip(("hr", "ndcg"), bars, strict=True):
            assert found[method][f"recommendation/full/{measure}_at_10/all"]["mean"] == pytest.approx(bar, abs=6e-4)


def test_an_encoder_is_ranked_from_its_pack(movielens):
    pack, facts = movielens
    torch.manual_seed(0)
    encoder = build(InteractionsEncoder(width=16, layers=1), facts).eval()
    histories = Histories.of(pack, facts["items"])
    ranking = rank(by_encoder(encoder, np.load(pack / "test.items.npy", mmap_mode="r")), histories, Recommendation())
    # nothing learnt: every place is as likely
    assert len(ranking.rank) == 943 and 0.4 < ranking.rank.mean() / facts["items"] < 0.56
