"""Random views of spectrograms, made on the device in batches: a piece of the time drawn out, a shift along frequency,
loudness, background noise, masks.

    crop and shift   Niizumi et al. 2021, "BYOL for Audio", section III-B: random resize crop
    masks            Park et al. 2019, "SpecAugment", section 2, filled with the view's mean
    noise            log-mixup-exp (BYOL for Audio, eq. 2): powers add, so that log spectra a and b become ln(e^a + e^b)

BYOL for Audio mixes in another recording of the batch. Here it is a steady noise whose spectrum is drawn: every view is then
decided by its own sample and parameters alone, however a batch is divided among processes, and the label table says all
of it. Pictures are 0..1 over six standard deviations of the data's log-mel spectrogram, 70 to 100 dB.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import OfKind, late
from ssl_pipeline.pretext.views import weights

torch = late("torch")
F = late("torch.nn.functional")

if TYPE_CHECKING:
    from torch import Generator, Tensor

NEPER = 0.045
"""A natural logarithm's unit of power (4.3 dB) as a share of the picture's range, for recordings that deviate by 16 dB."""


class SpectrogramViews(OfKind):
    """How strongly views of sound differ from their recording."""

    kind: Literal["spectrogram"] = "spectrogram"
    min_time: float = Field(0.7, gt=0, le=1)
    """Smallest share of the time that a crop keeps and draws out to the whole."""
    max_time: float = Field(1.0, gt=0, le=1)
    """Largest share."""
    frequency_shift: float = Field(0.1, ge=0, le=0.5)
    """Largest shift up or down as a share of the mel bands: another voice, another size of instrument."""
    gain: float = Field(0.1, ge=0, le=1)
    """Largest change of loudness either way, as a share of the picture's range: 0.1 are about 10 dB."""
    noise: float = Field(1.0, ge=0, le=1)
    """Share of the views with background noise: what stands between the sounds is a recording's fingerprint, and an encoder
    that may read it learns nothing else."""
    noise_level: float = Field(0.6, ge=0, le=1)
    """Loudest noise, as a place in the picture's range, where 0.5 is the recordings' usual level."""
    frequency_masks: int = Field(1, ge=0, le=8)
    """Bands that are hidden in a view."""
    frequency_mask: float = Field(0.2, ge=0, lt=1)
    """Width of the widest as a share of all."""
    time_masks: int = Field(1, ge=0, le=8)
    """Stretches of time that are hidden in a view."""
    time_mask: float = Field(0.2, ge=0, lt=1)
    """Length of the longest as a share of all."""

    @model_validator(mode="after")
    def crops_are_in_order(self) -> Self:
        if self.min_time > self.max_time:
            raise ValueError(f"min_time {self.min_time} is above max_time {self.max_time}: swap them")
        return self

    def draw(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Parameters of `shape` views: `crop [*shape, 3]` (share of the time, its offset in -1..1, shift as a share of the
        bands), `level [*shape, 5]` (gain; noise 0 or 1, its level, tilt and bend, as shares of the range), `frequency_mask
        [*shape, masks, 2]` and `time_mask [*shape, masks, 2]` (start and width as shares)."""

        def uniform(low: float, high: float, *more: int) -> Tensor:
            return torch.empty(*shape, *more).uniform_(low, high, generator=generator)

        share = uniform(self.min_time, self.max_time)
        crop = [share, uniform(-1, 1) * (1 - share), uniform(-1, 1) * self.frequency_shift]
        noisy = (uniform(0, 1) < self.noise).float()
        level = [
            uniform(-1, 1) * self.gain,
            noisy,
            uniform(0, self.noise_level),
            uniform(-0.2, 0.2),
            uniform(-0.2, 0.2),
        ]

        def masks(count: int, widest: float) -> Tensor:
            width = uniform(0, widest, count)
            return torch.stack([uniform(0, 1, count) * (1 - width), width], -1)

        return {
            "crop": torch.stack(crop, -1),
            "level": torch.stack(level, -1),
            "frequency_mask": masks(self.frequency_masks, self.frequency_mask),
            "time_mask": masks(self.time_masks, self.time_mask),
        }

    def render(self, images: Tensor, parameters: dict[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """images `[n, channels, mels, frames]` in 0..1, parameters `[n, ...]` -> `[n, channels, *size]` in 0..1, as large as
        the image unless `size` is given. Parameters `[n, k, ...]` give `[k * n, ...]`: all first views, then all second ones.
        In bf16 under bf16 autocast, else fp32."""
        device = images.device.type
        height, width = size or images.shape[-2:]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        if parameters["crop"].ndim == 3:
            parameters = {name: value.transpose(0, 1).flatten(0, 1) for name, value in parameters.items()}
        with torch.autocast(device, enabled=False):
            views = crop(images.to(dtype), parameters["crop"], height, width, self.frequency_shift)
            views = change_level(views, parameters["level"].to(dtype)) if self.gain or self.noise else views
            views = views.clamp(0, 1)
            if self.frequency_masks or self.time_masks:
                rows = inside(parameters["frequency_mask"], height)
                columns = inside(parameters["time_mask"], width)
                hidden = rows[:, None, :, None] | columns[:, None, None, :]
                views = torch.where(hidden, views.mean((1, 2, 3), keepdim=True, dtype=torch.float32).to(dtype), views)
        return views


def crop(images: Tensor, where: Tensor, height: int, width: int, furthest: float) -> Tensor:
    """images `[n, channels, mels, frames]`, `where [k * n, 3]` (share and offset of the time, shift of the bands) ->
    `[k * n, channels, height, width]`. The outermost bands are repeated where a shift, `furthest` at most, uncovers more."""
    n, channels, mels, frames = images.shape
    k = len(where) // n
    share, offset, shift = where.unbind(-1)
    across = weights(share, offset, None, width, frames, images.dtype)  # [k * n, width, frames]
    rows = images.repeat(k, 1, 1, 1).flatten(1, 2)  # [k * n, channels * mels, frames]
    views = torch.bmm(rows, across.transpose(1, 2)).view(k * n, channels, mels, width)
    if not furthest and height == mels:
        return views
    border = math.ceil(furthest * mels)
    views = F.pad(views, (0, 0, border, border), mode="replicate")
    inner = mels / (mels + 2 * border)  # of the bands with their borders
    down = weights(torch.full_like(shift, inner), -2 * shift * inner, None, height, mels + 2 * border, images.dtype)
    return torch.matmul(down[:, None], views)


def change_level(views: Tensor, level: Tensor) -> Tensor:
    """Adds noise, as a power, and gain to views `[n, channels, mels, frames]`; `level [n, 5]` as drawn. Unclamped."""
    gain, noisy, loudness, tilt, bend = level[:, :, None, None, None].unbind(1)
    mel = torch.linspace(-1, 1, views.shape[2], device=views.device, dtype=views.dtype).view(1, 1, -1, 1)
    noise = loudness + tilt * mel + bend * (mel.square() - 1 / 3)  # [n, 1, mels, 1]
    mixed = views + NEPER * F.softplus((noise - views) / NEPER)  # ln(e^a + e^b) = a + ln(1 + e^(b - a))
    return torch.where(noisy > 0, mixed, views) + gain


def inside(masks: Tensor, size: int) -> Tensor:
    """`[n, masks, 2]` starts and widths as shares -> bool `[n, size]`: which of `size` places lie in one of them."""
    place = (torch.arange(size, device=masks.device) + 0.5) / size
    start, width = masks[..., :1], masks[..., 1:]
    return ((place >= start) & (place < start + width)).any(1)
