"""Retrieval across modalities: does an image find its captions, and a caption its image?

Karpathy & Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", section 4.1: of a test split with
several captions an image, each image is a query among all captions, found at the best rank of its own, and each caption a
query among all images; recall@k is the share of queries found within the first k, beside the median rank.

A caption that is word for word one of an image's own counts as its own. Ties count against: an encoder that gives everything
the same embedding finds everything last. Numbers are on the test split only.

With pairs shuffled, a caption finds its image as often as by chance, whatever the encoder, and so does an image at k = 1; at
larger k an image does so less often, as the captions of one image lie together and the first k are of few images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from scipy import sparse, stats
from scipy.special import gammaln

from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings_retrieval import DIRECTIONS, Retrieval
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

TIE = 1e-6
"""Similarities that differ by less are equal: what rounding leaves."""
BLOCK = 1 << 24
"""Similarities that are held at a time."""
SHUFFLES = 5

Ranks = dict[str, np.ndarray]
"""By direction, the rank of each query from 1."""


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Retrieval
) -> Result:
    """The encoder's numbers, and what is found for some captions and images."""
    pairs = pairs_of(pack, "test")
    image, text = embed(encoder, pack, "test")
    chance = np.random.default_rng(0)
    shuffled = [ranks(image[chance.permutation(len(image))], text, pairs) for _ in range(SHUFFLES)]
    return Result(
        summarize([ranks(image, text, pairs)], pairs, settings),
        pictures_of(image, text, pairs, pack),
        controls={"shuffled pairs": summarize(shuffled, pairs, settings)},
        facts={"test_samples": pairs.images, "captions": len(pairs.captions)},
    )


def baselines(recipe: Recipe, pack: Pack, settings: Retrieval, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    from ssl_pipeline.evaluate.retrieval_classic import ridge

    pairs = pairs_of(pack, "test")
    step("random encoder")
    fresh = [fresh_encoder(recipe, pack, draw) for draw in range(settings.random_encoders)]
    step("ridge regression")
    return {
        "random encoder": random_encoders(fresh, pack, settings),
        "chance": at_chance(pairs, settings),
        "ridge regression": ridge(pack, settings),
    }


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their captions."""

    captions: list[str]
    """Of all images, those of an image together, `[m]`."""
    owner: np.ndarray
    """The image of each, `[m]`."""
    images: int

    @property
    def matches(self) -> Any:
        """Sparse `[images, m]`: which captions are right for which image."""
        same = pd.factorize(np.array(self.captions, dtype=object))[0]
        one = np.ones(len(same), np.int32)
        said = sparse.csr_matrix((one, (self.owner, same)), (self.images, same.max() + 1))
        spelled = sparse.csr_matrix((one, (np.arange(len(same)), same)), (len(same), same.max() + 1))
        return (said @ spelled.T).astype(bool).tocsr()


def pairs_of(pack: Pack, split: str) -> Pairs:
    texts = pq.read_table(pack.path / f"{split}.captions.parquet")["captions"].to_pylist()
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    return Pairs([caption for own in texts for caption in own], owner, len(texts))


def random_encoders(
    encoders: list[Any], pack: Pack, settings: Retrieval, autocast: Callable[[], Any] = nullcontext
) -> Metrics:
    """The mean of encoders with fresh weights."""
    pairs = pairs_of(pack, "test")
    return summarize([ranks(*embed(e, pack, "test", autocast), pairs) for e in encoders], pairs, settings)


@torch.inference_mode()
def embed(
    encoder: Any, pack: Pack, split: str, autocast: Callable[[], Any] = nullcontext, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of a split's images `[n, dim]` and of all their captions `[m, dim]`, in the order of `pairs_of`."""
    encoder.eval()
    stored, images, texts = pack.samples(split), [], []
    for at in range(0, len(stored["count"]), batch_size):
        batch = {
            name: torch.from_numpy(np.array(a[at : at + batch_size])).to(encoder.device) for name, a in stored.items()
        }
        with autocast():
            inputs = encoder.read(batch)
            tokens = inputs["tokens"]  # [batch, captions, length]
            real = torch.arange(tokens.shape[1], device=tokens.device) < inputs["count"][:, None]
            images.append(F.normalize(encoder(inputs).float(), dim=1).cpu())
            texts += [F.normalize(encoder.text(part).float(), dim=1).cpu() for part in tokens[real].split(batch_size)]
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


def ranks(image: np.ndarray, text: np.ndarray, pairs: Pairs) -> Ranks:
    """`image [n, dim]` and `text [m, dim]` whose dot product is the similarity."""
    matches = pairs.matches
    return {
        "image_to_text": ranks_among(image, text, matches),
        "text_to_image": ranks_among(text, image, matches.T.tocsr()),
    }


def ranks_among(queries: np.ndarray, candidates: np.ndarray, right: Any) -> np.ndarray:
    """The rank of the best right candidate of each query `[q, dim]` among `[c, dim]`; `right` is sparse `[q, c]`. Wrong
    candidates that are as similar stand before it, and those without a similarity (NaN), too."""
    found = [np.empty(0, np.int64)]
    size = max(1, BLOCK // len(candidates))
    for at in range(0, len(queries), size):
        similar, own = queries[at : at + size] @ candidates.T, right[at : at + size].toarray()
        best = np.where(own, similar, -np.inf).max(1, keepdims=True)
        found.append(1 + (~(similar < best - TIE) & ~own).sum(1))
    return np.concatenate(found)


def summarize(draws: list[Ranks], pairs: Pairs, settings: Retrieval) -> Metrics:
    """Means over draws and queries, with 95% bootstrap intervals over images (an image's captions stay together)."""
    chance = np.random.default_rng(0)
    resampled = chance.multinomial(pairs.images, np.full(pairs.images, 1 / pairs.images), settings.draws)  # [draws, n]
    values = {}
    for direction in DIRECTIONS:
        image = np.arange(pairs.images) if direction == "image_to_text" else pairs.owner
        queries = np.bincount(image, minlength=pairs.images)
        for k in settings.ks:
            hit = np.mean([draw[direction] <= k for draw in draws], axis=0)
            hits = np.bincount(image, hit, minlength=pairs.images)
            spread = (resampled @ hits) / (resampled @ queries)
            cell = interval(float(hit.mean()), spread, pairs.images) | {
                "scores": hits * pairs.images / queries.sum()
            }  # their mean is the recall
            values[f"retrieval/{direction}/recall_at_{k}/all"] = cell
        medians = [np.median(draw[direction]) for draw in draws]
        spread = np.concatenate([list(resampled_medians(draw[direction], image, resampled)) for draw in draws])
        low, high = np.quantile(spread, [0.025, 0.975])
        values[f"retrieval/{direction}/median_rank/all"] = {
            "mean": float(np.mean(medians)), "low": float(low), "high": float(high)
        }  # fmt: skip
    return values


def interval(mean: float, spread: np.ndarray, images: int) -> dict[str, float]:
    """Resampling knows no spread where all queries fared alike: there Wilson's interval stands in (Wilson 1927)."""
    low, high = np.quantile(spread, [0.025, 0.975])
    if mean in (0.0, 1.0):
        finite = stats.binomtest(round(mean * images), images).proportion_ci(method="wilson")
        low, high = finite.low, finite.high
    return {"mean": mean, "low": float(low), "high": float(high)}


def resampled_medians(rank: np.ndarray, image: np.ndarray, resampled: np.ndarray) -> Iterator[float]:
    """The (lower) median rank where image i occurs `resampled[:, i]` times."""
    order = np.argsort(rank)
    for times in resampled:
        below = np.cumsum(times[image[order]])
        yield float(rank[order[np.searchsorted(below, below[-1] / 2)]])


def at_chance(pairs: Pairs, settings: Retrieval) -> Metrics:
    """What guessing yields, in closed form. Of c candidates of which r are right, none of the first k is right with
    probability C(c - r, k) / C(c, k)."""
    values = {}
    for direction in DIRECTIONS:
        right = pairs.matches if direction == "image_to_text" else pairs.matches.T
        candidates, counts = right.shape[1], np.bincount(np.asarray(right.sum(1)).ravel())
        share = counts / counts.sum()
        recalls = np.array([missed(np.arange(len(counts)), candidates, k) for k in range(candidates + 1)])
        recall = 1 - recalls @ share  # by k
        for k in settings.ks:
            values[f"retrieval/{direction}/recall_at_{k}/all"] = exactly(recall[min(k, candidates)])
        values[f"retrieval/{direction}/median_rank/all"] = exactly(np.searchsorted(recall, 0.5))
    return values


def missed(right: np.ndarray, candidates: int, k: int) -> np.ndarray:
    """The probability that none of `right` candidates is among the first k."""
    wrong = candidates - right

    def log_choose(n: Any) -> Any:
        return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(np.maximum(n - k, 0) + 1.0)

    return np.where(wrong >= k, np.exp(log_choose(wrong) - log_choose(np.float64(candidates))), 0.0)


def exactly(value: Any) -> dict[str, float]:
    return {"mean": float(value), "low": float(value), "high": float(value)}


def pictures_of(
    image: np.ndarray, text: np.ndarray, pairs: Pairs, pack: Pack, queries: int = 6, k: int = 5
) -> dict[str, tuple[Any, ...]]:
    """What is found for a caption of random images, whose own image stands before it, and for the images themselves, of
    which the caption is shown: what `report.pictures` draws."""
    chosen = np.sort(np.random.default_rng(0).permutation(pairs.images)[:queries])
    captions = [int(np.flatnonzero(pairs.owner == i)[0]) for i in chosen]
    said = [pairs.captions[c] for c in captions]
    k = min(k, pairs.images, len(text))
    images, texts = nearest(text[captions], image, k), nearest(image[chosen], text, k)
    stored = pack.samples("test")["image"]
    rows = np.stack([stored[np.array([i, *found])] for i, found in zip(chosen, images, strict=True)])
    correct = np.take_along_axis(pairs.matches[chosen].toarray(), texts, 1)
    return {
        "images_found": ("sheet", rows, ["its image", *(f"found {n + 1}" for n in range(k))], said),
        "captions_found": ("neighbours", said, [[pairs.captions[c] for c in found] for found in texts], correct),
    }


def nearest(queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """Indices `[q, k]`, best first."""
    return np.argsort(-(queries @ candidates.T), axis=1, kind="stable")[:, :k]
