"""Videos: the image encoder on each frame of a clip, and the mean over its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pipeline.encoders import image
from ssl_pipeline.encoders.encoder import Batch, Encoder

if TYPE_CHECKING:
    from pathlib import Path

    from ssl_pipeline.encoders.settings_video import VideoEncoder as Settings


class VideoEncoder(Encoder):
    """clips `[batch, frames, channels, side, side]` in 0..1 -> embedding `[batch, dim]`: the mean of the frames'."""

    takes = "clip"

    def __init__(self, frame: image.ImageEncoder, frames: int) -> None:
        super().__init__()
        self.frame = frame
        self.frames = frames
        """Of a stored clip; any number can be embedded."""
        self.channels, self.image_size, self.dim = frame.channels, frame.image_size, frame.dim

    def read(self, batch: Batch) -> Tensor:
        """uint8 -> 0..1, in the autocast's precision"""
        return self.frame.read({"image": batch["clip"]})

    def forward(self, clips: Tensor) -> Tensor:
        return self.embed_frames(clips).mean(1)

    def tokens(self, inputs: Tensor) -> Tensor:
        """Of all frames, one after the other."""
        return self.frame.tokens(inputs.flatten(0, 1)).unflatten(0, (-1, inputs.shape[1])).flatten(1, 2)

    def embed_frames(self, clips: Tensor) -> Tensor:
        """`[batch, n, channels, side, side]`, any n -> `[batch, n, dim]`, each frame by itself"""
        return self.frame(clips.flatten(0, 1)).unflatten(0, (-1, clips.shape[1]))

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        shape = (count, self.frames, self.channels, self.image_size, self.image_size)
        return {"clip": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}

    def show(self, batch: Batch) -> np.ndarray:
        """The frame in the middle."""
        clip = batch["clip"]
        return clip[:, clip.shape[1] // 2].cpu().numpy().astype(np.float32) / 255

    def blocks(self) -> list[nn.Module]:
        return self.frame.blocks()

    def save_extra(self, folder: Path) -> None:
        self.frame.save_extra(folder)


def build(settings: Settings, facts: dict[str, Any]) -> VideoEncoder:
    """`facts` as of images: `channels`, and their `mean` and `std` in 0..1."""
    return VideoEncoder(image.build(settings, facts), settings.frames)
