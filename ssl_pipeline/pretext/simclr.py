"""SimCLR: two random views of an image attract, all other views in the batch repel.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1
l(i, j) = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) ),  sim = cosine, 2N views
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
contrast = late("ssl_pipeline.pretext.contrast")
pd = late("pandas")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.recipe import Encoder


class SimCLR(PretextTask):
    """Contrastive learning on pairs of views."""

    task: Literal["simclr"] = "simclr"
    temperature: float = Field(0.2, gt=0)
    projection_dim: int = Field(128, ge=2)
    views: Views = Views()
    encoder_passes: ClassVar[int] = 2

    def draw(self, count: int, encoder: Encoder, generator: Generator) -> Labels:
        """Parameters of two views an image, `[count, 2, ...]`."""
        return self.views.draw((count, 2), generator)

    def table(self, labels: Labels) -> DataFrame:
        columns: dict[str, Any] = {}
        for view in (0, 1):
            columns[f"view{view}_affine"] = list(labels["affine"][:, view].flatten(1).numpy())
            columns[f"view{view}_color"] = list(labels["color"][:, view].numpy())
            columns[f"view{view}_blur"] = labels["blur"][:, view].numpy()
        return pd.DataFrame(columns)

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        """The projection: a hidden layer as wide as the embedding (section 4.2), normalised as in the authors' code."""
        nn = torch.nn
        return nn.Sequential(
            nn.Linear(encoder.dim, encoder.dim, bias=False),
            nn.BatchNorm1d(encoder.dim),
            nn.ReLU(inplace=True),
            nn.Linear(encoder.dim, self.projection_dim),
        )

    def step(self, encoder: EncoderModule, head: nn.Module, images: Tensor, labels: Labels) -> dict[str, Any]:
        views = self.two_views(images, labels).transpose(0, 1).flatten(0, 1)  # [2 * batch, ...]: all first, all second
        embedding = encoder(views)
        z1, z2 = head(embedding).chunk(2)
        return {"loss": contrast.nt_xent(z1, z2, self.temperature), "embedding": embedding}

    def two_views(self, images: Tensor, labels: Labels) -> Tensor:
        """`[batch, channels, side, side]` -> `[batch, 2, channels, side, side]`."""
        flat = {name: value.flatten(0, 1) for name, value in labels.items()}
        return self.views.render(images.repeat_interleave(2, dim=0), flat).unflatten(0, (-1, 2))

    def picture(self, images: Tensor, labels: Labels) -> Tensor:
        return torch.cat([images[:, None], self.two_views(images, labels)], dim=1)

    def columns(self) -> list[str]:
        return ["image", "view 1", "view 2"]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1)
