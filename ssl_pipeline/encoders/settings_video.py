"""What a recipe may say of an encoder of videos."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_pipeline.encoders.settings import ImageEncoder


class VideoEncoder(ImageEncoder):
    """A timm network on each frame of a clip; a clip's embedding is the mean of its frames'."""

    packed = frozenset({"image_size", "channels", "frames", "every_seconds", "clips_per_video", "min_motion"})
    kind: Literal["video"] = "video"  # type: ignore[assignment]

    frames: int = Field(9, ge=2, le=256)
    """Of a clip."""
    every_seconds: float = Field(0.1, gt=0, le=60)
    """Time from one frame of a clip to the next, whatever the videos' frame rates. Below the time between two frames of the
    slowest video, frames repeat."""
    clips_per_video: int = Field(10, ge=1)
    """Most clips of a video that are trained on: those that move most."""
    min_motion: float = Field(0.01, ge=0, le=1)
    """Least motion of a clip that is trained on: mean change of a coarse grey picture from one frame to the next, of black to
    white, less what a change of light explains. The pack's facts count the clips below it."""

    @property
    def clip_seconds(self) -> float:
        """From a clip's first frame to its last."""
        return (self.frames - 1) * self.every_seconds
