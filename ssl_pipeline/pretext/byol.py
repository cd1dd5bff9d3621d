"""BYOL: predict a slowly moving teacher's embedding of one view from the other view; no negatives.

Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", section 3, eq. 2
L = 2 - 2 cos(q(z1), z2') + 2 - 2 cos(q(z2), z1'),  z' from the teacher, whose weights follow the student's
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.joint import JointEmbedding, follow, mlp
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.pretext.task import Labels


class BYOL(JointEmbedding):
    """Prediction of a teacher's embedding."""

    task: Literal["byol"] = "byol"
    hidden_dim: int = Field(1024, ge=2)
    """Of projector and predictor; 4096 in the paper."""
    projection_dim: int = Field(256, ge=2)
    momentum: float = Field(0.99, ge=0, le=1)
    """Of the teacher at the start; it rises to 1. The paper takes 0.99 for 300 epochs, 0.996 for 1,000."""
    image_views: ClassVar[Views] = Views(solarize=0.1)
    encoder_passes: ClassVar[int] = 4

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        projector = mlp(encoder.dim, self.hidden_dim, self.projection_dim)
        teacher = copy.deepcopy(torch.nn.Sequential(encoder, projector)).requires_grad_(False)
        predictor = mlp(self.projection_dim, self.hidden_dim, self.projection_dim)
        return torch.nn.ModuleDict({"projector": projector, "predictor": predictor, "teacher": teacher})

    def step(self, encoder: EncoderModule, head: Any, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views)
        predicted = head["predictor"](head["projector"](embedding))
        with torch.no_grad():
            target = head["teacher"](views)
        with torch.autocast(views.device.type, enabled=False):
            first, second = target.float().chunk(2)
            cosine = F.cosine_similarity(predicted.float(), torch.cat([second, first]), dim=1)
        return {"loss": 4 - 4 * cosine.mean(), "embedding": embedding}

    def after_step(self, encoder: EncoderModule, head: Any, progress: float) -> None:
        follow(head["teacher"], [encoder, head["projector"]], self.momentum, progress)
