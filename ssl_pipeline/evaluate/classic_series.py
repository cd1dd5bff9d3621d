"""What self-supervision on time series must beat: the nearest neighbour, and MiniRocket, which learns nothing but a ridge.

Dempster, Schmidt, Webb 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series Classification":
84 kernels of nine weights, three of them 2 and six -1, at many dilations; a feature is the share of places where the kernel's
output is above a bias, and a bias is a quantile of that output on a random training series (section 3). With several
channels, each kernel and dilation sums a random few of them, as in the authors' own multivariate code.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

KERNELS = torch.tensor([[2.0 if place in twos else -1.0 for place in range(9)] for twos in combinations(range(9), 3)])
"""`[84, 9]`"""
MAX_DILATIONS = 32
GOLDEN = (5**0.5 + 1) / 2
CHUNK_VALUES = 1 << 24


def nearest_neighbor(train: np.ndarray, labels: ArrayLike, test: np.ndarray, normalized: bool = True) -> np.ndarray:
    """The label of the training series nearest to each of `test [n, channels, steps]` in Euclidean distance. `normalized` gives
    every channel of every series mean 0 and deviation 1 before; leave it out where level and scale say something."""
    seen, asked = ((z_normalize(x) if normalized else x.astype(np.float32)) for x in (train, test))
    rows = torch.from_numpy(seen).flatten(1)
    nearest = [torch.cdist(torch.from_numpy(part).flatten(1), rows).argmin(1) for part in chunks(asked, 1024)]
    return np.asarray(labels)[torch.cat(nearest).numpy()]


def mini_rocket(train: np.ndarray, labels: ArrayLike, test: np.ndarray, seed: int = 0) -> np.ndarray:
    """The labels of `test [n, channels, steps]` by a ridge on MiniRocket's features, its penalty chosen by leave-one-out."""
    rocket = MiniRocket.fit(train, seed)
    ridge = make_pipeline(StandardScaler(with_mean=False), RidgeClassifierCV(alphas=np.logspace(-3, 3, 10)))
    return ridge.fit(rocket.transform(train), labels).predict(rocket.transform(test))


def z_normalize(series: np.ndarray) -> np.ndarray:
    """`[n, channels, steps]` float32; constant channels become 0."""
    centered = series - series.mean(2, keepdims=True, dtype=np.float64)
    deviation = centered.std(2, keepdims=True)
    return (centered / np.where(deviation > 1e-8, deviation, 1)).astype(np.float32)


@dataclass(frozen=True)
class MiniRocket:
    """The transform, with its biases taken from training series."""

    dilations: list[int]
    mixes: list[Tensor]
    """For each dilation `[84, channels]`: 1 where a kernel sums that channel."""
    biases: list[Tensor]
    """For each dilation `[84, biases]`."""

    @classmethod
    def fit(cls, train: np.ndarray, seed: int = 0, features: int = 10_000) -> MiniRocket:
        """Draws channels and biases for `features` features (rounded down to a multiple of 84) from `train [n, channels,
        steps]`. Raises ValueError where a series is shorter than a kernel."""
        n, channels, steps = train.shape
        if steps < 9:
            raise ValueError(f"series of {steps} steps are shorter than MiniRocket's kernels of 9")
        generator = np.random.default_rng(seed)
        dilations, counts = dilations_of(steps, features // 84)
        quantiles = (np.arange(1, 84 * sum(counts) + 1) * GOLDEN) % 1
        mixes, biases = [], []
        for dilation, count in zip(dilations, counts, strict=True):
            mix = torch.zeros(84, channels)
            for row in mix:
                width = int(2 ** generator.uniform(0, np.log2(min(channels, 9) + 1)))
                row[torch.from_numpy(generator.choice(channels, width, replace=False))] = 1
            some = torch.from_numpy(
                train[generator.integers(n, size=84)]
            ).float()  # a series of its own for each kernel
            mixed = torch.einsum("kc,kcs->ks", mix, some)[None]
            output = convolve(mixed, dilation)[0].numpy()
            taken, quantiles = quantiles[: 84 * count].reshape(84, count), quantiles[84 * count :]
            rows = [np.quantile(row, shares) for row, shares in zip(output, taken, strict=True)]
            mixes.append(mix)
            biases.append(torch.from_numpy(np.stack(rows)).float())
        return cls(dilations, mixes, biases)

    @torch.inference_mode()
    def transform(self, series: np.ndarray) -> np.ndarray:
        """`[n, channels, steps]` -> shares of positive values `[n, features]`."""
        size = max(1, CHUNK_VALUES // (84 * series.shape[2]))
        return np.concatenate([self._chunk(torch.from_numpy(part).float()) for part in chunks(series, size)])

    def _chunk(self, series: Tensor) -> np.ndarray:
        found = []
        for number, (dilation, mix, biases) in enumerate(zip(self.dilations, self.mixes, self.biases, strict=True)):
            output = convolve(torch.einsum("kc,ncs->nks", mix, series), dilation)
            # every other kernel, alternating with the dilation, is read only where it lies inside the series
            inside = (number + torch.arange(84)) % 2 == 1
            for kernels, margin in ((~inside, 0), (inside, 4 * dilation)):
                part = output[:, kernels, margin : output.shape[2] - margin]
                found.append(
                    torch.stack([(part > b[:, None]).float().mean(2) for b in biases[kernels].T], 2).flatten(1)
                )
        return torch.cat(found, 1).numpy()


def convolve(mixed: Tensor, dilation: int) -> Tensor:
    """Each of 84 kernels on its own series `[n, 84, steps]`, as long as the series, zeros beyond it."""
    return F.conv1d(mixed, KERNELS[:, None], padding=4 * dilation, dilation=dilation, groups=84)


def dilations_of(steps: int, per_kernel: int) -> tuple[list[int], list[int]]:
    """Dilations from 1 up to the longest that fits, in powers, and how many of a kernel's features have each (section 3.1)."""
    exponents = np.linspace(0, np.log2((steps - 1) / 8), min(per_kernel, MAX_DILATIONS))
    dilations, counts = np.unique((2**exponents).astype(int), return_counts=True)
    shares = counts * per_kernel // counts.sum()
    shares[: per_kernel - shares.sum()] += 1  # what rounding left over
    return dilations.tolist(), shares.tolist()


def chunks(series: np.ndarray, size: int) -> list[np.ndarray]:
    return [series[start : start + size] for start in range(0, len(series), size)]
