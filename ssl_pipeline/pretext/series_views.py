"""Random views of time series, made on the device in batches: a crop resampled to full length with time warped a little,
channels scaled, a stretch of time hidden, channels dropped, noise.

Tang, Perez-Pozuelo, Spathis, Mascolo 2020, "Exploring Contrastive Learning in Human Activity Recognition for Healthcare"
(noise, scaling, time warp), and Yue et al. 2022, "TS2Vec" (crops, hidden time). Flips of time and sign are left out: for most
signals they change the meaning.

`draw` makes the parameters, on the CPU, and knows neither the number of channels nor of steps. What differs by channel is
made in `render` from two numbers a view: the fractions of `a + b * channel`, for a and b uniform in 0..1, are uniform and
independent for any two channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssl_pipeline.part import OfKind, late

torch = late("torch")

if TYPE_CHECKING:
    from torch import Generator, Tensor


class SeriesViews(OfKind):
    """How strongly views differ from their window."""

    kind: Literal["series"] = "series"
    min_crop: float = Field(0.7, gt=0, le=1)
    """Smallest share of the window's time that a crop keeps; crops are stretched to the window's length."""
    warp: float = Field(0.2, ge=0, lt=1)
    """How much faster or slower than elsewhere time may run within a view; 0 keeps it even."""
    scale: float = Field(0.2, ge=0)
    """Deviation of the logarithm of each channel's factor."""
    noise: float = Field(0.1, ge=0)
    """Deviation of Gaussian noise, where the training split's is 1."""
    hide: float = Field(0.2, ge=0, lt=1)
    """Longest stretch of time, as a share of the window, that is replaced by its channel's mean; the shortest is none."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Share of channels that are replaced by their mean, one always staying; worth a try where channels are many."""

    def draw(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Parameters of `shape` views, float32 `[*shape, 2]`: `crop` (start and length as shares of the window), `warp`
        (strength and phase), `hide` (start and length as shares of the view), and what `uniform` makes numbers of for the
        channels' `scale`, for `drop`; and `noise [*shape]`, the seed of a view's noise as int32."""

        def pair(low: float = 0.0, high: float = 1.0) -> Tensor:
            return torch.empty(*shape, 2).uniform_(low, high, generator=generator)

        length = self.min_crop + (1 - self.min_crop) * pair()[..., 0]
        hidden = self.hide * pair()[..., 0]
        crop, hide, warp = pair(), pair(), pair()
        return {
            "crop": torch.stack([crop[..., 0] * (1 - length), length], -1),
            "warp": torch.stack([self.warp * warp[..., 0], warp[..., 1]], -1),
            "hide": torch.stack([hide[..., 0] * (1 - hidden), hidden], -1),
            "scale": pair(),
            "drop": pair(),
            "noise": torch.randint(1, 2**31 - 1, shape, dtype=torch.int32, generator=generator),
        }

    def render(self, inputs: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """inputs `[n, channels, steps]`, parameters `[n, ...]` -> float32 of the same shape. Parameters `[n, k, ...]` give
        `[k * n, ...]`: all first views, then all second ones."""
        if parameters["crop"].ndim == 3:
            parameters = {name: value.transpose(0, 1).flatten(0, 1) for name, value in parameters.items()}
        with torch.autocast(inputs.device.type, enabled=False):
            views = resample(inputs.float(), parameters["crop"], parameters["warp"])
            channels = views.shape[1]
            if self.scale > 0:
                normal = gaussian(uniform(parameters["scale"], channels))
                views = views * (self.scale * normal).exp()[..., None]
            mean = views.mean(2, keepdim=True)
            if self.noise > 0:
                views = views + self.noise * gaussian(hashed(parameters["noise"], views.shape))
            if self.hide > 0:
                views = torch.where(stretch(parameters["hide"], views.shape[2]), mean, views)
            if self.drop > 0 and channels > 1:
                chance = uniform(parameters["drop"], channels)
                dropped = (chance < self.drop) & (chance < chance.amax(1, keepdim=True))
                views = torch.where(dropped[..., None], mean, views)
        return views


def resample(inputs: Tensor, crop: Tensor, warp: Tensor) -> Tensor:
    """`[n, channels, steps]`, start and length `[k * n, 2]`, strength and phase `[k * n, 2]` -> `[k * n, channels, steps]`.

    Share s of the view shows the input at start + length * g(s), with g(s) = s + w / 2pi * (sin 2pi(s + p) - sin 2pi p): its
    ends stay where they are, and time runs 1 - w to 1 + w times as fast. Linear between steps.
    """
    (n, channels, steps), k = inputs.shape, len(crop) // len(inputs)
    share = torch.linspace(0, 1, steps, device=inputs.device)
    strength, phase = warp[:, :1], 2 * math.pi * warp[:, 1:]
    warped = share + strength / (2 * math.pi) * (torch.sin(2 * math.pi * share + phase) - torch.sin(phase))
    place = ((crop[:, :1] + crop[:, 1:] * warped) * (steps - 1)).clamp(0, steps - 1)  # [k * n, steps]
    left = place.floor().clamp(max=max(0, steps - 2))
    weight = (place - left)[:, None]
    left = left.long().view(k, n, 1, steps).expand(k, n, channels, steps)
    source = inputs.expand(k, n, channels, steps)
    before, after = source.gather(3, left), source.gather(3, (left + 1).clamp(max=steps - 1))
    return torch.lerp(before.flatten(0, 1), after.flatten(0, 1), weight)


def stretch(hide: Tensor, steps: int) -> Tensor:
    """Start and length `[n, 2]` as shares -> True on that stretch, `[n, 1, steps]`."""
    share = (torch.arange(steps, device=hide.device) + 0.5) / steps
    return ((share >= hide[:, :1]) & (share < hide.sum(1, keepdim=True)))[:, None]


def uniform(pair: Tensor, count: int) -> Tensor:
    """Two numbers in 0..1 a row `[n, 2]` -> `[n, count]` in 0..1, any two of a row independent."""
    return (pair[:, :1].double() + pair[:, 1:].double() * torch.arange(count, device=pair.device)).frac().float()


def hashed(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A seed a row `[n]` -> numbers in 0..1 of `shape [n, ...]` that look drawn: the seed and the place in the row, mixed by
    multiplications and shifts (the finaliser of MurmurHash3), in integers, the same on every device."""
    count = math.prod(shape[1:])
    mixed = seed.long()[:, None] * 0x9E3779B1 + torch.arange(count, device=seed.device) * 0x85EBCA6B
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (1, 16)):
        mixed = mixed & 0xFFFFFFFF
        mixed = (mixed ^ (mixed >> shift)) * factor
    return ((mixed & 0xFFFFFF).float() / 2**24).view(shape)


def gaussian(uniform: Tensor) -> Tensor:
    """Numbers uniform in 0..1 -> standard normal ones, up to 4 deviations."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-0.99994, 0.99994))
