"""VICReg: views of an image agree, every dimension varies, no two dimensions say the same.

Bardes, Ponce, LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", section 4
L = lambda |z1 - z2|^2 + mu [v(z1) + v(z2)] / 2 + nu [c(z1) + c(z2)]
v(z) = mean_d max(0, 1 - sqrt(var z_d + 1e-4)),  c(z) = 1/D sum_{i != j} cov(z)_ij^2       (v halved as in the authors' code)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.joint import JointEmbedding, mlp

torch = late("torch")
F = late("torch.nn.functional")
gathering = late("ssl_pipeline.pretext.gather")

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.pretext.task import Labels


class VICReg(JointEmbedding):
    """Agreement without negatives, against collapse by the spread of the batch."""

    task: Literal["vicreg"] = "vicreg"
    compares_samples: ClassVar[bool] = True
    expander_dim: int = Field(1024, ge=2)
    """Width of the expander's layers; 8192 in the paper."""
    invariance: float = Field(25.0, ge=0)
    variance: float = Field(25.0, ge=0)
    covariance: float = Field(1.0, ge=0)

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        return mlp(encoder.dim, self.expander_dim, self.expander_dim, self.expander_dim)

    def step(self, encoder: EncoderModule, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views)
        with torch.autocast(views.device.type, enabled=False):
            z1, z2 = (gathering.gather(z) for z in head(embedding.float()).chunk(2))
            invariance, variance, covariance = vicreg(z1, z2)
        loss = self.invariance * invariance + self.variance * variance + self.covariance * covariance
        parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}, "embedding": embedding}


def vicreg(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms, unweighted, of pairs `z1[i], z2[i]`, each `[n, dim]`."""
    variance = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (z1, z2)) / 2
    return F.mse_loss(z1, z2), variance, redundancy(z1) + redundancy(z2)


def redundancy(z: Tensor) -> Tensor:
    """Squares of the covariances of different dimensions of `[n, dim]`, summed, over dim."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
