"""Ranks against loops and torchmetrics, chance against guessing, and the whole evaluation on drawings that can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.retrieval import RetrievalHitRate

from ssl_pipeline.encoders.image_text import build
from ssl_pipeline.evaluate import retrieval
from ssl_pipeline.evaluate.retrieval import Pairs, at_chance, own, pairs_of, random_encoders, ranks, summarize
from ssl_pipeline.evaluate.retrieval_classic import ridge
from ssl_pipeline.evaluate.settings_retrieval import Retrieval
from ssl_pipeline.report import pictures
from tests.captioned_squares import pack_of, settings_of

SETTINGS = Retrieval()
I2T, T2I = "retrieval/image_to_text", "retrieval/text_to_image"


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("squares"))


def cloud(images=30, seed=0, noise=1.5):
    """Images, captions near them (one to four each, some read the same) and the pairs."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), random.integers(1, 5, images))
    captions = [f"caption {n % 50}" for n in range(len(owner))]
    image = random.normal(size=(images, 8))
    text = image[owner] + noise * random.normal(size=(len(owner), 8))
    image, text = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (image, text))
    return image.astype(np.float32), text.astype(np.float32), Pairs(captions, owner, images)


def right(pairs, image, caption):
    """Whether a caption reads as one of an image's own."""
    return pairs.captions[caption] in {pairs.captions[c] for c in np.flatnonzero(pairs.owner == image)}


def test_ranks_equal_a_loop_over_all_pairs():
    image, text, pairs = cloud()
    found, similar = ranks(image, text, pairs), image @ text.T
    for i in range(30):
        its = [right(pairs, i, c) for c in range(len(text))]
        best = similar[i][its].max()
        assert found["image_to_text"][i] == 1 + sum(similar[i, c] >= best for c in range(len(text)) if not its[c])
    for c in range(len(text)):
        its = [right(pairs, i, c) for i in range(30)]
        best = similar[its, c].max()
        assert found["text_to_image"][c] == 1 + sum(similar[i, c] >= best for i in range(30) if not its[i])


def test_blocks_change_nothing(monkeypatch):
    image, text, pairs = cloud()
    whole = ranks(image, text, pairs)
    monkeypatch.setattr(retrieval, "BLOCK", 200)
    for direction, found in ranks(image, text, pairs).items():
        assert (found == whole[direction]).all()


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_equals_torchmetrics(k):
    image, text, pairs = cloud()
    values = summarize([ranks(image, text, pairs)], pairs, SETTINGS)
    matches, similar = pairs.matches.toarray(), image @ text.T
    for direction, scores, target in ((I2T, similar, matches), (T2I, similar.T, matches.T)):
        queries = np.repeat(np.arange(len(scores)), scores.shape[1])
        given = (torch.from_numpy(array.ravel()) for array in (scores, target, queries))
        metric = RetrievalHitRate(top_k=k)
        preds, wanted, indexes = given
        assert values[f"{direction}/recall_at_{k}/all"]["mean"] == pytest.approx(
            metric(preds, wanted, indexes=indexes).item(), abs=1e-6
        )


def test_ties_and_missing_numbers_count_against():
    _, _, pairs = cloud()
    same, none = np.ones((30, 8), np.float32), np.full((30, 8), np.nan, np.float32)
    for image in (same, same + 1e-9 * np.random.default_rng(0).random((30, 8), np.float32), none):
        found = ranks(image / np.sqrt(8), image[pairs.owner] / np.sqrt(8), pairs)
        assert (found["image_to_text"] == 1 + len(pairs.owner) - pairs.matches.sum(1).A1).all()
        assert (found["text_to_image"] == 31 - pairs.matches.sum(0).A1).all()


def test_chance_in_closed_form_equals_guessing():
    _, _, pairs = cloud()
    random, guesses = np.random.default_rng(1), []
    for _ in range(100):
        image, text = random.normal(size=(30, 8)), random.normal(size=(len(pairs.owner), 8))
        guesses.append(ranks(image, text, pairs))
    seen, chance = summarize(guesses, pairs, SETTINGS), at_chance(pairs, SETTINGS)
    for name, value in chance.items():
        # ties of median ranks within an image's few captions: half a rank
        assert seen[name]["mean"] == pytest.approx(value["mean"], abs=1.5 if "median" in name else 0.02), name
    distinct = Pairs([str(i) for i in range(50)], np.arange(50), 50)
    assert at_chance(distinct, SETTINGS)[f"{I2T}/recall_at_5/all"]["mean"] == pytest.approx(0.1)
    assert at_chance(distinct, SETTINGS)[f"{T2I}/median_rank/all"]["mean"] == 25


def test_shuffled_pairs_are_at_chance_however_good_the_encoder():
    image, text, pairs = cloud(300, noise=0.1)
    assert summarize([ranks(image, text, pairs)], pairs, SETTINGS)[f"{T2I}/recall_at_10/all"]["mean"] > 0.9
    pairs = Pairs([str(n) for n in range(len(text))], pairs.owner, 300)
    random = np.random.default_rng(0)
    shuffled = [ranks(image[random.permutation(300)], text, pairs) for _ in range(20)]
    values, chance = summarize(shuffled, pairs, SETTINGS), at_chance(pairs, SETTINGS)
    for name in (f"{I2T}/recall_at_1/all", *(f"{T2I}/recall_at_{k}/all" for k in (1, 5, 10))):
        assert values[name]["low"] <= chance[name]["mean"] <= values[name]["high"], name
    # the captions of an image lie together: the first ten are of few images, and guesses of ten would be of ten
    assert values[f"{I2T}/recall_at_10/all"]["high"] < chance[f"{I2T}/recall_at_10/all"]["mean"]


def test_intervals_are_bootstrap_over_images():
    image, text, pairs = cloud(200, noise=2.5)
    found = ranks(image, text, pairs)
    values = summarize([found], pairs, Retrieval(draws=4000))
    hits = (found["image_to_text"] <= 10).astype(float)
    expected = stats.bootstrap((hits,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    got = values[f"{I2T}/recall_at_10/all"]
    assert (got["low"], got["high"]) == pytest.approx(tuple(expected), abs=0.012)
    spread = stats.bootstrap((found["image_to_text"],), np.median, method="percentile", rng=0).confidence_interval
    median = values[f"{I2T}/median_rank/all"]
    assert (median["low"], median["high"]) == pytest.approx(tuple(spread), abs=3)
    # captions of an image stay together: five copies of each make the interval no narrower
    five = Pairs([str(n) for n in range(1000)], np.repeat(np.arange(200), 5), 200)
    copies = {"image_to_text": found["image_to_text"], "text_to_image": np.repeat(found["image_to_text"], 5)}
    alike = summarize([copies], five, Retrieval(draws=4000))[f"{T2I}/recall_at_10/all"]
    assert alike["high"] - alike["low"] == pytest.approx(got["high"] - got["low"], abs=0.02)
    nothing = {direction: np.full(len(rank), 99) for direction, rank in found.items()}
    assert 0.01 < summarize([nothing], pairs, SETTINGS)[f"{I2T}/recall_at_1/all"]["high"] < 0.03


def test_the_whole_evaluation(pack):
    torch.manual_seed(0)
    encoders = [build(settings_of(), pack.facts) for _ in range(2)]
    result = own(None, pack, encoders[0], {}, pack.path, SETTINGS)
    rows = {"own": result.metrics, **result.controls} | {
        "random encoder": random_encoders(encoders, pack, SETTINGS), "chance": at_chance(pairs_of(pack, "test"), SETTINGS),
        "ridge": ridge(pack, SETTINGS),
    }  # fmt: skip
    for values in rows.values():
        assert set(SETTINGS.metrics()) < set(values)
        assert all(v["low"] <= v["mean"] <= v["high"] for name, v in values.items() if "recall" in name)
    # 20 kinds of drawing, two of each in the test split: ridge sees the kind, and cannot see the number
    assert rows["ridge"][f"{T2I}/recall_at_5/all"]["mean"] > 0.8 > 3 * rows["chance"][f"{T2I}/recall_at_5/all"]["mean"]
    for method in ("random encoder", "shuffled pairs"):
        values = rows[method][f"{T2I}/recall_at_10/all"]
        assert values["low"] - 0.1 < rows["chance"][f"{T2I}/recall_at_10/all"]["mean"] < values["high"] + 0.1


def test_embeddings_are_in_the_order_of_the_pairs(pack):
    torch.manual_seed(0)
    encoder = build(settings_of(), pack.facts).eval()
    pairs = pairs_of(pack, "test")
    image, text = retrieval.embed(encoder, pack, "test", batch_size=7)
    assert image.shape == (40, 32) and text.shape == (len(pairs.captions), 32)
    with torch.no_grad():
        alone = torch.nn.functional.normalize(encoder.text(encoder.tokenize(pairs.captions[8:9])), dim=1)
    torch.testing.assert_close(alone[0], torch.from_numpy(text[8]), atol=1e-5, rtol=1e-4)


def test_pictures_show_what_was_found(pack):
    pairs, stored = pairs_of(pack, "test"), pack.samples("test")["image"]
    random = np.random.default_rng(0)
    image, text = random.normal(size=(40, 4)), random.normal(size=(len(pairs.captions), 4))
    drawn = retrieval.pictures_of(image, text, pairs, pack, queries=4, k=3)
    kind, rows, columns, said = drawn["images_found"]
    assert rows.shape == (4, 4, 3, 16, 16) and columns == ["its image", "found 1", "found 2", "found 3"]
    assert len(getattr(pictures, kind)(rows, columns, said)) > 1000
    chosen = np.sort(np.random.default_rng(0).permutation(40)[:4])
    for row, caption, owner in zip(rows, said, chosen, strict=True):
        query = np.flatnonzero(pairs.owner == owner)[0]
        assert caption == pairs.captions[query] and (row[0] == stored[owner]).all()
        assert (row[1:] == stored[np.argsort(-(image @ text[query]))[:3]]).all()
    kind, queries, found, correct = drawn["captions_found"]
    assert queries == said and len(getattr(pictures, kind)(queries, found, correct)) > 1000
    for owner, texts, its in zip(chosen, found, correct, strict=True):
        best = np.argsort(-(text @ image[owner]))[:3]
        assert texts == [pairs.captions[c] for c in best] and its.tolist() == [right(pairs, owner, c) for c in best]


def test_a_k_named_twice_is_refused():
    with pytest.raises(ValueError, match="names a number twice"):
        Retrieval(ks=(1, 1))
