"""Time series as small pictures of lines."""

from __future__ import annotations

import numpy as np

COLORS = np.array(
    [(31, 119, 180), (214, 90, 20), (44, 140, 60), (170, 50, 60), (120, 90, 170), (110, 80, 70), (200, 90, 160), (90, 90, 90)]
) / 255  # fmt: skip
"""Of the channels, over and over."""
OVERSAMPLED = 8


def draw_lines(
    values: np.ndarray, reach: float = 3.0, height: int = 96, width: int = 192, thickness: float = 1.5
) -> np.ndarray:
    """float32 pictures in 0..1 `[n, 3, height, width]` of series `[n, channels, steps]`, time from left to right, `reach` at
    the top and `-reach` at the bottom, beyond which lines run along the border. Where a value is NaN there is no line."""
    steps = values.shape[2]
    at = np.linspace(0, steps - 1, width * max(OVERSAMPLED, -(-4 * steps // width)))
    left = np.minimum(at.astype(int), max(0, steps - 2))
    share = at - left
    right = np.minimum(left + 1, steps - 1)
    curve = values[..., left] * (1 - share) + np.where(share > 0, values[..., right], 0) * share
    row = (1 - np.clip(curve, -reach, reach) / reach) / 2 * (
        height - thickness
    ) + thickness / 2  # [n, channels, points]
    row = row.reshape(*row.shape[:2], width, -1)
    drawn = ~np.isnan(row).any(3)
    low = np.where(drawn, row.min(3) - thickness / 2, 0)[:, :, None]
    high = np.where(drawn, row.max(3) + thickness / 2, 0)[:, :, None]
    pixel = np.arange(height)[:, None]
    cover = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, 1)  # [n, channels, height, width]
    picture = np.ones((len(values), 3, height, width), np.float32)
    for channel in range(values.shape[1]):
        ink, share = COLORS[channel % len(COLORS)][:, None, None], cover[:, channel, None]
        picture += (share * (ink - picture)).astype(np.float32)
    return picture
