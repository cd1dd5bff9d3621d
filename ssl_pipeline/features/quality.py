"""How good are embeddings, without labels? RankMe, alignment, uniformity, on the validation split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.views import Views

SAMPLES = 2048
VIEWS = Views(min_scale=0.5, flip=False, color=0.4, blur=False)
"""The same mild views for every recipe, so that alignment can be compared."""


def rankme(embedding: Tensor) -> float:
    """exp of the entropy of the normalised singular values of `[n, dim]` (Garrido et al. 2023, RankMe, eq. 1)."""
    values = torch.linalg.svdvals(embedding.double())
    p = values / values.sum() + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance of the normalised embeddings of two views, each `[n, dim]` (Wang & Isola 2020, eq. 1); 0 is best."""
    return float((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean())


def uniformity(embedding: Tensor) -> float:
    """log of the mean Gaussian potential exp(-2 d^2) over pairs of `[n, dim]` (Wang & Isola 2020, eq. 2); lower is better."""
    return float(torch.pdist(F.normalize(embedding, dim=1)).square().mul(-2).exp().mean().log())


@torch.inference_mode()
def label_free_quality(encoder: Encoder, pack: Pack, forward: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """`rankme`, `alignment` and `uniformity` of the encoder on up to 2,048 validation images;
    `forward` embeds a batch of images in 0..1."""
    stored = pack.images("validation")
    chosen = np.random.default_rng(0).permutation(len(stored))[:SAMPLES]  # a source is often sorted by class
    images = torch.from_numpy(stored[np.sort(chosen)]).float() / 255
    draws = VIEWS.draw((len(images), 2), generator(0, "quality"))

    def embed(batch: Tensor) -> Tensor:
        return torch.cat([forward(part).cpu() for part in batch.split(256)])

    first, second = (embed(VIEWS.render(images, {k: v[:, i] for k, v in draws.items()})) for i in (0, 1))
    plain = embed(images)
    values = {"rankme": rankme(plain), "alignment": alignment(first, second), "uniformity": uniformity(plain)}
    return {name: round(value, 4) for name, value in values.items()}
