"""What a recommender must beat: what is popular, and item-to-item weights in closed form. None is trained by gradients.

All score items for users, `[users, items]`, from what was known before the held-out item.

    popularity   how many users chose it
    item_knn     cosine of items over users, the k nearest of each (Deshpande & Karypis 2004, section 4)
    ease         the linear autoencoder with zero diagonal, B = I - P / diag(P), P = (X'X + penalty I)^-1 (Steck 2019, eq. 8)
    ease, recency   the same weights, read with histories that fade into the past
    markov       how often it followed the user's last item, smoothed by popularity (Rendle et al. 2010, section 3)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg, sparse

from ssl_pipeline.evaluate.recommendation import HELD_OUT, Histories, Score
from ssl_pipeline.evaluate.settings_recommendation import Recommendation
from ssl_pipeline.part import PipelineError

MOST_ITEMS = 40_000
"""Up to which the inverse of a matrix of all items is computed: 6.4 GB."""


def all_baselines(
    histories: Histories, settings: Recommendation, split: str = "test", step: Callable[[str], None] = lambda name: None
) -> dict[str, Score]:
    """Method -> its scores; `step` hears of each before it is made. EASE is left out where there are too many items for it."""
    made: dict[str, Score] = {}
    step("popularity")
    made["popularity"] = popularity(histories, split)
    step("item-kNN")
    made["item-kNN"] = item_knn(histories, split, settings.neighbours)
    step("Markov chain")
    made["Markov chain"] = markov(histories, split)
    if histories.items <= MOST_ITEMS:
        step("EASE")
        weights = ease_weights(histories, split, settings.penalty)
        made["EASE"] = ease(histories, split, weights)
        made["EASE, recency"] = ease(histories, split, weights, settings.decay)
    return made


def popularity(histories: Histories, split: str) -> Score:
    count = np.asarray(histories.before(split).sum(0))
    return lambda users: np.tile(count, (len(users), 1))


def item_knn(histories: Histories, split: str, neighbours: int) -> Score:
    """An item of the history speaks for its `neighbours` most similar ones, by cosine; of equal ones, the first."""
    x = histories.before(split)
    length = np.sqrt(np.asarray(x.sum(0)))
    scale = sparse.diags_array(1 / np.maximum(length, 1e-9))
    cosine = (scale @ (x.T @ x) @ scale).tocsr()
    cosine.setdiag(0)
    cosine.eliminate_zeros()
    return read_with(x, nearest(cosine, neighbours))


def nearest(similarity: sparse.csr_array, k: int) -> sparse.csr_array:
    """The k largest entries of each row."""
    row = np.repeat(np.arange(similarity.shape[0]), np.diff(similarity.indptr))
    order = np.lexsort((similarity.indices, -similarity.data, row))
    place = np.arange(len(row)) - similarity.indptr[row]  # sorted by row, places in a row are as before
    kept = order[place < k]
    return sparse.csr_array((similarity.data[kept], (row[kept], similarity.indices[kept])), shape=similarity.shape)


def markov(histories: Histories, split: str) -> Score:
    """How often each item followed the user's last one, plus popularity as one more time, which decides among those that never
    did."""
    x = histories.before(split)
    known = np.flatnonzero(histories.after >= HELD_OUT[split])
    item, user = histories.item[known], histories.user[known]
    same = user[1:] == user[:-1]
    steps = np.ones(int(same.sum()), np.float32)
    moves = sparse.csr_array((steps, (item[:-1][same], item[1:][same])), shape=(histories.items, histories.items))
    count = np.asarray(x.sum(0))
    last = item[np.append(~same, True)]
    return lambda users: moves[last[users]].toarray() + count / count.sum()


def ease_weights(histories: Histories, split: str, penalty: float) -> np.ndarray:
    """`[items, items]`, zero on the diagonal."""
    if histories.items > MOST_ITEMS:
        raise PipelineError(f"EASE inverts a matrix of {histories.items} items a side: raise k_core, or leave it out")
    x = histories.before(split)
    gram = (x.T @ x).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += penalty
    inverse = linalg.cho_solve(linalg.cho_factor(gram, overwrite_a=True), np.eye(len(gram), dtype=np.float32))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def ease(histories: Histories, split: str, weights: np.ndarray, decay: float = 1.0) -> Score:
    return read_with(histories.before(split, decay), weights)


def read_with(x: sparse.csr_array, weights: np.ndarray | sparse.csr_array) -> Score:
    """Histories times item-to-item weights."""

    def score(users: np.ndarray) -> np.ndarray:
        out = x[users] @ weights
        return out.toarray() if sparse.issparse(out) else out

    return score
