"""CLIP: which caption of the batch belongs to an image, and which image to a caption?

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.3 and figure 3
L = 1/2 (CE(s I T', own) + CE(s T I', own)),  s = exp(t) learnt from 1/0.07 and held under 100 (section 2.4)
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

MAX_SCALE = 100.0


class CLIP(ImageTextContrast):
    """Contrast of pairs by softmax."""

    task: Literal["clip"] = "clip"
    temperature: float = Field(0.07, ge=1 / MAX_SCALE)
    """At the start; it is learnt."""

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        head = torch.nn.Module()
        head.log_scale = torch.nn.Parameter(torch.full((1,), -math.log(self.temperature)))
        return head

    def compare(self, image: Tensor, text: Tensor, key: Tensor, head: Any) -> tuple[Tensor, Tensor]:
        return pairs.info_nce(image, text, key, head.log_scale.exp())

    def after_step(self, encoder: EncoderModule, head: Any, progress: float) -> None:
        with torch.no_grad():
            head.log_scale.clamp_(max=math.log(MAX_SCALE))

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(batch_size)
