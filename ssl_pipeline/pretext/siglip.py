"""SigLIP: does this caption belong to this image, asked of every pair in the batch by itself?

Zhai, Mustafa, Kolesnikov, Beyer 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2, equation 1
L = -1/n sum_ij log sigmoid(y_ij (s I_i T_j + b)),  y = 1 on pairs and -1 off them; s learnt from 10, b from -10
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.image_text_contrast import ImageTextContrast

torch = late("torch")
pairs = late("ssl_pipeline.pretext.pair_losses")

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule


class SigLIP(ImageTextContrast):
    """Contrast of pairs by sigmoid; the loss of a pair does not depend on the others, so small batches serve, too."""

    task: Literal["siglip"] = "siglip"
    scale: float = Field(10.0, gt=0)
    """At the start; it is learnt, as is the bias."""
    bias: float = -10.0
    """Nearly all pairs are wrong ones, and at the start all are taken for that."""

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        head = torch.nn.Module()
        head.log_scale = torch.nn.Parameter(torch.full((1,), math.log(self.scale)))
        head.bias = torch.nn.Parameter(torch.full((1,), self.bias))
        return head

    def compare(self, image: Tensor, text: Tensor, key: Tensor, head: Any) -> tuple[Tensor, Tensor]:
        return pairs.sigmoid_pairs(image, text, key, head.log_scale.exp(), head.bias)

    def collapse_loss(self, batch_size: int) -> float:
        """Of the best constant: every pair is said to be right with probability 1 / n."""
        n = batch_size
        return math.log(n) + (n - 1) * math.log(n / (n - 1)) if n > 1 else 0.0
