"""Clip order: in which order were a few short clips of a video taken?

Xu, Xiao, Zhao, Shao, Xie, Zhuang 2019, "Self-supervised Spatiotemporal Learning via Video Clip Order Prediction" (VCOP), section
3: L = -log F_order(c_1 ... c_n) over the n! orders, on features of pairs of clips. Their clips go through a 3D network; here a
clip's feature is the mean of its frames' embeddings and what changes from its first frame to its last. A clip shows which way
things move, so all n! orders are classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.ordering import Ordering

torch = late("torch")

if TYPE_CHECKING:
    from torch import Tensor


class ClipOrder(Ordering):
    """Classification of the order of short clips."""

    task: Literal["clip_order"] = "clip_order"
    clips: int = Field(3, ge=2, le=4)
    """2, 6 or 24 orders."""
    clip_frames: int = Field(2, ge=2)
    """Frames of each, one step apart."""
    direction: bool = True

    @property
    def pieces(self) -> int:
        return self.clips

    @property
    def piece_frames(self) -> int:
        return self.clip_frames

    def feature_dim(self, dim: int) -> int:
        return 2 * dim

    def feature(self, frames: Tensor) -> Tensor:
        return torch.cat([frames.mean(2), frames[:, :, -1] - frames[:, :, 0]], 2)
