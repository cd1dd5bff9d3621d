"""The mel scale: bands as wide as the ear resolves, and the triangles that sum a spectrum into them. Free of torch."""

from __future__ import annotations

import numpy as np

LOWEST_HZ = 40.0
"""Where the first band begins: below are rumble and offsets."""


def band_edges(mels: int, sample_rate: int) -> np.ndarray:
    """`[mels + 2]` frequencies in Hz, at equal steps of HTK's mel scale, 2595 log10(1 + f / 700) (O'Shaughnessy 1987), up to
    half the sample rate: band i rises from edge i, peaks at edge i + 1 and ends at edge i + 2."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST_HZ, sample_rate / 2))
    return 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)


def mel_filters(mels: int, points: int, sample_rate: int) -> np.ndarray:
    """`[points // 2 + 1, mels]`: each band's weights of the bins of a spectrum over `points` samples, 1 at its peak (Davis
    and Mermelstein 1980)."""
    bins = np.arange(points // 2 + 1)[:, None] * sample_rate / points
    edges = band_edges(mels, sample_rate)
    rise, fall = np.diff(edges)[:-1], np.diff(edges)[1:]
    return np.maximum(0, np.minimum((bins - edges[:-2]) / rise, (edges[2:] - bins) / fall))


def resolves(mels: int, points: int, sample_rate: int) -> bool:
    """Whether every band holds at least one bin."""
    return bool(mel_filters(mels, points, sample_rate).any(0).all())
