"""Retrieval as before deep learning: what a caption says, predicted linearly from an image's colours and edges.

Images become histograms of colour, histograms of oriented gradients (after Dalal & Triggs 2005, section 3) and their own 8x8
thumbnail; captions TF-IDF. Ridge regression from the one to the other is learnt from the training pairs that the encoder
learns from, its penalty chosen on the validation split.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from ssl_pipeline.evaluate.retrieval import Metrics, Pairs, pairs_of, ranks, summarize
from ssl_pipeline.evaluate.settings_retrieval import DIRECTIONS, Retrieval
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Pack

SHADES, QUARTERS, CELLS, ANGLES, THUMBNAIL = 4, 2, 4, 8, 8
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""In units of a feature's variance times the number of images."""
WORDS = 4000
"""The commonest ones count."""


def ridge(pack: Pack, settings: Retrieval) -> Metrics:
    """The baseline's numbers on the test split."""
    pairs = {split: pairs_of(pack, split) for split in SPLITS}
    features = {split: features_of(pack, split) for split in SPLITS}
    center, scale = features["train"].mean(0), features["train"].std(0) + 1e-3
    x = {split: (values - center) / scale for split, values in features.items()}
    words = TfidfVectorizer(sublinear_tf=True, max_features=WORDS, token_pattern=r"(?u)\b\w+\b", dtype=np.float64)
    words.fit(pairs["train"].captions)
    said = {split: words.transform(pairs[split].captions) for split in SPLITS}
    model = Linear(x["train"], said["train"], pairs["train"])

    def quality(penalty: float) -> float:
        """Mean reciprocal rank on the validation split."""
        found = ranks(*model.embed(penalty, x["validation"], said["validation"]), pairs["validation"])
        return sum(float(np.mean(1 / found[direction])) for direction in DIRECTIONS)

    embedded = model.embed(max(PENALTIES, key=quality), x["test"], said["test"])
    return summarize([ranks(*embedded, pairs["test"])], pairs["test"], settings)


class Linear:
    """Ridge regression from features `[n, f]`, standardised, to the mean of an image's captions `[m, words]`, with
    any penalty after one decomposition."""

    def __init__(self, x: np.ndarray, said: Any, pairs: Pairs) -> None:
        per_image = np.bincount(pairs.owner, minlength=pairs.images)
        weights = 1 / per_image[pairs.owner]
        averaging = sparse.csr_matrix((weights, (pairs.owner, np.arange(len(weights)))), (len(x), len(weights)))
        target = averaging @ said  # [n, words]
        self.mean = np.asarray(target.mean(0)).ravel()
        self.images = len(x)
        self.values, self.vectors = np.linalg.eigh(x.T @ x)
        self.rotated = self.vectors.T @ (target.T @ x).T  # x is centred: the targets' mean falls out

    def embed(self, penalty: float, x: np.ndarray, said: Any) -> tuple[np.ndarray, np.ndarray]:
        """Vectors `[n, f]` and `[m, f]` whose dot product is the cosine of predicted and real TF-IDF, each less the mean."""
        weights = self.vectors @ (self.rotated / (self.values + penalty * self.images)[:, None])  # [f, words]
        length = np.sqrt(np.einsum("nf,fg,ng->n", x, weights @ weights.T, x, optimize=True))
        image = x / np.maximum(length, 1e-12)[:, None]
        square = np.asarray(said.power(2).sum(1)).ravel()
        away = np.sqrt(square - 2 * (said @ self.mean) + self.mean @ self.mean)
        text = (said @ weights.T - weights @ self.mean) / np.maximum(away, 1e-12)[:, None]
        return image.astype(np.float32), text.astype(np.float32)


def features_of(pack: Pack, split: str) -> np.ndarray:
    """float64 `[n, f]`."""
    images = pack.samples(split)["image"]
    parts = (torch.from_numpy(np.array(images[at : at + 256])) for at in range(0, len(images), 256))
    return torch.cat([describe(part.float() / 255) for part in parts]).double().numpy()


def describe(images: torch.Tensor) -> torch.Tensor:
    """`[n, channels, side, side]` in 0..1 -> colours of each quarter, edges of each of 16 cells, and a thumbnail."""
    channels, grey = images.shape[1], images.mean(1)
    shade = (images * SHADES).long().clamp(max=SHADES - 1)
    color = sum(shade[:, c] * SHADES**c for c in range(channels))  # [n, side, side]
    colors = histogram(color, torch.ones_like(grey), SHADES**channels, QUARTERS)
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    angle = torch.atan2(down, across).remainder(torch.pi) / torch.pi  # edges have no sign
    edges = histogram((angle * ANGLES).long().clamp(max=ANGLES - 1), torch.hypot(across, down), ANGLES, CELLS)
    return torch.cat([colors, edges, F.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)], 1)


def histogram(which: torch.Tensor, weight: torch.Tensor, bins: int, cells: int) -> torch.Tensor:
    """Square roots of the shares of `weight` in each bin and each cell of a grid: `[n, side, side]` -> `[n, cells^2 * bins]`."""
    n, side, _ = which.shape
    row = torch.arange(side) * cells // side
    place = (row[:, None] * cells + row) * bins + which
    counted = torch.zeros(n, cells**2 * bins).scatter_add_(1, place.flatten(1), weight.flatten(1))
    return (counted / counted.sum(1, keepdim=True).clamp(min=1e-6)).sqrt()
