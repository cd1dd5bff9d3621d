"""LeJEPA: views of an image agree, and embeddings are Gaussian, which needs no teacher, no predictor and no schedule.

Balestriero & LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
L = lambda SIGReg(z) + (1 - lambda) mean_v |z_v - mean_v z|^2
SIGReg: projections x of the batch on random directions have the characteristic function of N(0, 1), by Epps and Pulley's
statistic  N int |1/N sum_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, by the trapezoid rule on 17 knots
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.joint import JointEmbedding, mlp

torch = late("torch")
gathering = late("ssl_pipeline.pretext.gather")

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.pretext.task import Labels

KNOTS, FARTHEST = 17, 3.0
"""Of the integral over t, from 0; the other half is its mirror image."""


class LeJEPA(JointEmbedding):
    """Agreement of views under a Gaussian prior."""

    task: Literal["lejepa"] = "lejepa"
    compares_samples: ClassVar[bool] = True
    projection_dim: int = Field(64, ge=2)
    hidden_dim: int = Field(512, ge=2)
    weight: float = Field(0.05, gt=0, lt=1)
    """lambda; the paper's one hyperparameter, with its recommended value."""
    directions: int = Field(256, ge=1)
    """Random directions a step."""

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        return mlp(encoder.dim, self.hidden_dim, self.projection_dim)

    def step(self, encoder: EncoderModule, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views)
        with torch.autocast(views.device.type, enabled=False):
            z = head(embedding.float()).unflatten(0, (self.views_per_image, -1))  # [views, batch, dim]
            agreement = (z - z.mean(0)).square().mean()
            # the loop seeds by step: every process draws the same directions
            directions = torch.randn(z.shape[2], self.directions, device=z.device)
            gaussianity = torch.stack([sigreg(gathering.gather(view), directions) for view in z.unbind(0)]).mean()
        loss = self.weight * gaussianity + (1 - self.weight) * agreement
        return {
            "loss": loss, "agreement": agreement.detach(), "sigreg": gaussianity.detach(), "embedding": embedding
        }  # fmt: skip


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Epps-Pulley statistic of `[n, dim]` against N(0, 1) along each of `[dim, k]` (made unit), averaged; 0 is Gaussian."""
    t = torch.linspace(0, FARTHEST, KNOTS, device=z.device)
    gaussian = torch.exp(-t.square() / 2)
    step = torch.full_like(t, 2 * FARTHEST / (KNOTS - 1))
    step[0] = step[-1] = FARTHEST / (KNOTS - 1)
    x = (z @ (directions / directions.norm(dim=0)))[..., None] * t  # [n, k, knots]
    error = (x.cos().mean(0) - gaussian).square() + x.sin().mean(0).square()
    return len(z) * (error @ (step * gaussian)).mean()
