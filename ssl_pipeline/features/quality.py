"""How good are embeddings, without labels? RankMe, LiDAR, alpha-ReQ, alignment, uniformity, on the validation split."""

from __future__ import annotations

from collections.abc import Callable
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
LIDAR_SAMPLES, LIDAR_VIEWS = 512, 8
"""The authors take about 1,000 samples of 50 views, which would cost a CPU eight times what all else here does."""
FITTED_RANKS = slice(3, 100)
"""Of the eigenvalues, largest first: the 4th to the 100th, as alpha-ReQ's authors have it in their code; the paper names none."""
VIEWS: dict[str, Any] = {
    "image": Views(min_scale=0.5, flip=False, color=0.4, blur=False), "audio": SpectrogramViews(), "series": SeriesViews()
}  # fmt: skip
"""By the kind of encoder: the same mild views for every recipe, so that alignment and LiDAR can be compared."""


def rankme(embedding: Tensor) -> float:
    """exp of the entropy of the normalised singular values of `[n, dim]` (Garrido et al. 2023, RankMe, eq. 1)."""
    values = torch.linalg.svdvals(embedding.double())
    p = values / values.sum() + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alpha_req(embedding: Tensor) -> float:
    """The exponent alpha of the eigenvalues of the covariance of `[n, dim]`, of which the i-th largest is proportional to
    i^-alpha: a line through log eigenvalue over log rank, ranks weighted by 1 / rank (Agrawal et al. 2022, alpha-ReQ; the
    weights are in their code, after Stringer et al. 2019). NaN for fewer than eight eigenvalues above rounding."""
    values = torch.linalg.svdvals((embedding - embedding.mean(0)).double()).square()
    values = values[values > values.max() * 1e-12]  # a fit through what rounding leaves says nothing
    if len(values) < FITTED_RANKS.start + 5:
        return float("nan")
    rank = torch.arange(1, len(values) + 1, dtype=torch.float64)[FITTED_RANKS]
    points = rank.log().numpy(), values[FITTED_RANKS].log().numpy()
    return -float(np.polyfit(*points, 1, w=rank.rsqrt().numpy())[0])  # polyfit squares the weights


def lidar(views: Tensor) -> float:
    """The effective rank of the classes' means once what differs within a class is whitened away, a class being the views of
    one sample, `[n, views, dim]`: at most n - 1 and dim; higher is better (Thilak et al. 2024, LiDAR).

    The delta that keeps the within-class covariance invertible is 1e-4 of the mean variance, where the paper has 1e-4:
    otherwise embeddings twice as large would have another LiDAR."""
    views = views.double()
    mean = views.mean(1)
    between = (mean - mean.mean(0)).T @ (mean - mean.mean(0)) / len(mean)
    inner = (views - mean[:, None]).flatten(0, 1)
    within = inner.T @ inner / len(inner)
    delta = 1e-4 * (between + within).diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(within)
    whitener = vectors / (values.clamp(min=0) + delta).sqrt()
    ratios = torch.linalg.eigvalsh(whitener.T @ between @ whitener).clamp(min=0)
    p = ratios / ratios.sum().clamp(min=1e-30) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance of the normalised embeddings of two views, each `[n, dim]` (Wang & Isola 2020, eq. 1); 0 is best."""
    return float((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean())


def uniformity(embedding: Tensor) -> float:
    """log of the mean Gaussian potential exp(-2 d^2) over pairs of `[n, dim]` (Wang & Isola 2020, eq. 2); lower is better."""
    return float(torch.pdist(F.normalize(embedding, dim=1)).square().mul(-2).exp().mean().log())


@torch.inference_mode()
def label_free_quality(encoder: Encoder, pack: Pack, settings: Pretrain, kind: str) -> dict[str, float]:
    """`rankme`, `alpha_req`, `uniformity` and, where there are views of such samples, `alignment` and `lidar` of the encoder
    on up to 2,048 validation samples (512 for LiDAR). What cannot be computed is left out."""
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
    plain = found["plain"]
    values = {"rankme": rankme(plain), "alpha_req": alpha_req(plain), "uniformity": uniformity(plain)}
    if views:
        values["alignment"] = alignment(found["first"], found["second"])
        few = torch.randperm(len(chosen), generator=generator(0, "lidar samples"))[:LIDAR_SAMPLES]
        several = {name: array[few] for name, array in samples.items()}
        values["lidar"] = lidar(embedded_views(encoder, several, views, autocast))
    return {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}


def embedded_views(encoder: Encoder, samples: dict[str, Tensor], views: Any, autocast: Callable[[], Any]) -> Tensor:
    """`[n, LIDAR_VIEWS, dim]` of stored samples `[n, ...]`."""
    count = len(next(iter(samples.values())))
    draws, parts = views.draw((count, LIDAR_VIEWS), generator(0, "lidar")), []
    for at in range(0, count, 256 // LIDAR_VIEWS):
        part = slice(at, at + 256 // LIDAR_VIEWS)
        with autocast():
            inputs = encoder.read({name: array[part].to(encoder.device) for name, array in samples.items()})
            shown = views.render(inputs, {name: value[part].to(encoder.device) for name, value in draws.items()})
            embedded = encoder(shown).float().cpu()  # all first views, then all second ones
        parts.append(embedded.unflatten(0, (LIDAR_VIEWS, -1)).transpose(0, 1))
    return torch.cat(parts)
