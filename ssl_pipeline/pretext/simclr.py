"""SimCLR: two random views of an image attract, all other views in the batch repel.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1
l(i, j) = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) ),  sim = cosine, 2N views
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.joint import JointEmbedding, mlp

contrast = late("ssl_pipeline.pretext.contrast")

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.pretext.task import Labels


class SimCLR(JointEmbedding):
    """Contrastive learning on pairs of views."""

    task: Literal["simclr"] = "simclr"
    compares_samples: ClassVar[bool] = True
    temperature: float = Field(0.2, gt=0)
    projection_dim: int = Field(128, ge=2)

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        """The projection: a hidden layer as wide as the embedding (section 4.2), normalised as in the authors' code."""
        return mlp(encoder.dim, encoder.dim, self.projection_dim)

    def step(self, encoder: EncoderModule, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views)  # [2 * batch, dim]: all first views, all second
        z1, z2 = head(embedding).chunk(2)
        return {"loss": contrast.nt_xent(z1, z2, self.temperature), "embedding": embedding}

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1)
