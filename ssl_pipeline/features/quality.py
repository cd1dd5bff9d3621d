"""How good are embeddings, without labels? RankMe, alignment, uniformity, on the validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import Pack, rows_in, take
from ssl_pipeline.pretext.series_views import SeriesViews
from ssl_pipeline.pretext.spectrogram_views import SpectrogramViews
from ssl_pipeline.pretext.views import Views
from ssl_pipeline.pretrain.compute import mixed_precision
from ssl_pipeline.recipe import Pretrain

SAMPLES = 2048
VIEWS: dict[str, Any] = {
    "image": Views(min_scale=0.5, flip=False, color=0.4, blur=False), "audio": SpectrogramViews(), "series": SeriesViews()
}  # fmt: skip
"""By the kind of encoder: the same mild views for every recipe, so that alignment can be compared."""


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
def label_free_quality(encoder: Encoder, pack: Pack, settings: Pretrain, kind: str) -> dict[str, float]:
    """`rankme`, `uniformity` and, where there are views of such samples, `alignment` of the encoder on up to 2,048 validation
    samples."""
    stored = pack.samples("validation")
    chosen = np.random.default_rng(0).permutation(rows_in(stored))[:SAMPLES]  # a source is often sorted by class
    samples = {name: torch.from_numpy(part) for name, part in take(stored, np.sort(chosen)).items()}
    autocast = mixed_precision(settings, encoder.device)
    draws = views.draw((len(chosen), 2), generator(0, "quality")) if (views := VIEWS.get(kind)) else {}
    embeddings: dict[str, list[Tensor]] = {"plain": [], "first": [], "second": []}
    for at in range(0, len(chosen), 256):
        part = slice(at, at + 256)
        with autocast():
            inputs = encoder.read({name: array[part].to(encoder.device) for name, array in samples.items()})
            embeddings["plain"].append(encoder(inputs).float().cpu())
            if views:
                shown = views.render(inputs, {name: value[part].to(encoder.device) for name, value in draws.items()})
                both = encoder(shown).float().cpu().chunk(2)
                embeddings["first"].append(both[0])
                embeddings["second"].append(both[1])
    found = {name: torch.cat(parts) for name, parts in embeddings.items() if parts}
    values = {"rankme": rankme(found["plain"]), "uniformity": uniformity(found["plain"])}
    if views:
        values["alignment"] = alignment(found["first"], found["second"])
    return {name: round(value, 4) for name, value in values.items()}
