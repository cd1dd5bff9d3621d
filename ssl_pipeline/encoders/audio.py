"""Sound: the log-mel spectrogram as a grey picture, and a timm backbone on it, in one module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.encoders.image import blocks_of, read_weights, timm_backbone
from ssl_pipeline.encoders.log_mel import LogMel
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings

RANGE = 6.0
"""Standard deviations of the log-mel spectrogram that the picture's range from 0 to 1 covers."""


class AudioEncoder(Encoder):
    """pictures `[batch, 1, mels, frames]` in 0..1, low frequencies first -> embedding `[batch, dim]`.

    A picture is 1/2 + (S - mean) / (6 std), cut off at 0 and 1, with the mean and deviation of the training recordings'
    log-mel spectrogram S outside of silence: 0.5 is the usual level, 0.1 is 0.6 deviations, about 10 dB.
    """

    takes = "audio"
    channels = 1
    level: Tensor
    deviation: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, settings: Settings, mean: float, std: float) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.shape, self.samples = settings.shape, settings.samples
        self.log_mel = LogMel(settings)
        self.register_buffer("level", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(std))
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 1, 1, 1), 1 / RANGE))
        self.dim: int = backbone.head_hidden_size  # type: ignore[assignment]

    def read(self, batch: Batch) -> Tensor:
        """int16 `[batch, samples]` -> pictures, in fp32"""
        spectrogram = self.log_mel(batch["audio"])[:, None]
        return (0.5 + (spectrogram - self.level) / (RANGE * self.deviation)).clamp(0, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.pool(self.backbone.forward_features(self.normalize(pictures)))

    def tokens(self, pictures: Tensor) -> Tensor:
        features = self.backbone.forward_features(self.normalize(pictures))
        return features if features.ndim == 3 else super().tokens(pictures)

    def normalize(self, pictures: Tensor) -> Tensor:
        return (pictures - self.mean) / self.std

    def pool(self, features: Tensor) -> Tensor:
        """The backbone's own last features (a map or tokens) -> `[batch, dim]`."""
        return self.backbone.forward_head(features, pre_logits=True)

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        """Noise as loud as speech."""
        noise = 3000 * torch.randn(count, self.samples, generator=generator)
        return {"audio": noise.clamp(-32768, 32767).to(torch.int16)}

    def show(self, batch: Batch) -> np.ndarray:
        """The pictures, low frequencies at the bottom."""
        with torch.no_grad():
            return self.read(batch).flip(2).cpu().numpy()

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self.backbone)


def build(settings: Settings, facts: dict[str, Any]) -> AudioEncoder:
    """`facts`: `mean` and `std` of the log-mel spectrogram.

    Raises PipelineError for a picture too small for the backbone, options it does not take, or weights that do not fit.
    """
    backbone: Any = timm_backbone(settings, 1, settings.shape)
    try:
        with torch.no_grad():
            backbone.eval().forward_features(torch.zeros(1, 1, *settings.shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise PipelineError(
            f"encoder {settings.backbone!r} cannot take a spectrogram of {settings.mels} mels x {settings.frames} frames: "
            "raise encoder.seconds and encoder.mels or choose a backbone with a smaller total stride"
        ) from error
    encoder = AudioEncoder(backbone.train(), settings, facts["mean"], facts["std"])
    if isinstance(settings.pretrained, str):
        read_weights(encoder, Path(settings.pretrained).expanduser())  # type: ignore[arg-type]
    return encoder
