"""The log-mel spectrogram, on the device, in fp32.

    S(m, t) = ln( sum_k W(k, m) |X(k, t)|^2 + floor ),  X = Fourier transform of a Hann window of sound

Scaled so that the bins of a full-scale sine sum to 1: 0 is about the loudest that a band gets, and the floor stands 100 dB
below it, beneath the rounding noise of 16 bits. W are HTK's mel bands (`mel_scale.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pipeline.encoders.mel_scale import mel_filters

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings

FLOOR = 1e-10


class LogMel(nn.Module):
    """int16 waveform `[batch, samples]` -> float32 `[batch, mels, frames]` in natural logarithms, from ln(floor) = -23 to
    about 0; frame t is centred at (t + 1/2) hops, with silence around the recording."""

    taper: Tensor
    filters: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.window, self.hop, self.points = settings.window, settings.hop, settings.points
        self.frames = settings.frames
        taper = torch.hann_window(self.window, dtype=torch.float64)
        scale = 2 / (self.points * taper.square().sum()).sqrt() / 32768  # by Parseval
        filters = torch.from_numpy(mel_filters(settings.mels, self.points, settings.sample_rate))
        # made from the settings, so no part of the weights
        self.register_buffer("taper", (taper * scale).float(), persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.log(self.power(waveform) + FLOOR)

    def power(self, waveform: Tensor) -> Tensor:
        """Mel power `[batch, mels, frames]`; exactly 0 where a window holds nothing but zeros."""
        span = (self.frames - 1) * self.hop + self.window
        before = (self.window - self.hop) // 2
        sound = F.pad(waveform.float(), (before, max(0, span - before - waveform.shape[1])))[:, :span]
        windows = sound.unfold(1, self.window, self.hop) * self.taper  # [batch, frames, window]
        spectrum = torch.fft.rfft(windows, n=self.points)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.filters).transpose(1, 2)
