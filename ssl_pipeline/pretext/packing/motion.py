"""What moves between two frames of a video, and where the camera cut to another picture.

Misra, Zitnick, Hebert 2016, "Shuffle and Learn", section 3.1, and Lee et al. 2017, "Unsupervised Representation Learning by
Sorting Sequences", section 3.1, keep frames by the motion between them: the order of frames that are alike cannot be seen.
"""

from __future__ import annotations

import numpy as np

CELLS = 16
"""A side of the coarse picture that motion is measured on: noise and compression average out in a cell."""
CUT = 0.5
"""1 - correlation of two pictures from which they may be of different shots."""
SUDDEN = 1.5
"""How many times as different as the frames before and after they have to be: fast motion goes on, a cut does not."""
FLAT = 1e-4
"""Variance of a picture in which there is nothing to see."""


def coarse(frame: np.ndarray) -> np.ndarray:
    """uint8 `[channels, side, side]` -> its grey picture in 0..1, averaged over at most 16x16 cells."""
    grey = frame.mean(0, dtype=np.float32) / 255
    cells = min(CELLS, len(grey))
    edges = np.linspace(0, len(grey), cells + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(grey, edges[:-1], 0), edges[:-1], 1)
    return sums / np.outer(np.diff(edges), np.diff(edges))


def change(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Of two coarse pictures: the mean absolute difference, in 0..1, that no change of brightness and contrast explains (the
    residual of the line that fits `after` from `before`), and 1 - their correlation, in 0..2."""
    a, b = before - before.mean(), after - after.mean()
    covariance, spread = (a * b).mean(), np.square(a).mean()
    gain = covariance / max(spread, FLAT)
    correlation = covariance / np.sqrt(max(spread, FLAT) * max(np.square(b).mean(), FLAT))
    return float(np.abs(b - gain * a).mean()), float(1 - correlation)


def has_cut(differences: np.ndarray) -> bool:
    """Whether one of the steps of a window, given by 1 - correlation `[steps]`, is a cut."""
    padded = np.pad(differences, 1)
    beside = np.maximum(padded[:-2], padded[2:])
    return bool(((differences > CUT) & (differences > SUDDEN * beside)).any())
