"""Rotation prediction: which of four quarter turns was applied to the image?

    Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations", section 2.2
    L = -1/K sum_y log F_y(rot(x, y)),  K = 4; all four rotations of an image stand in the same batch

The image is first cropped and tilted a little (the same for all four): otherwise borders and pixel grids give the answer
away, and on small images the shortcut wins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")
pd = late("pandas")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.encoders.settings import EncoderPart as Encoder


class Rotation(PretextTask):
    """Four-way classification of the rotation."""

    task: Literal["rotation"] = "rotation"
    views: Views = Views(min_scale=0.5, flip=False, rotate_degrees=15, color=0.0, blur=False)
    """What happens to the image before it is rotated."""
    keeps_head: ClassVar[bool] = True
    encoder_passes: ClassVar[int] = 4

    def draw(self, count: int, encoder: Encoder, generator: Generator) -> Labels:
        """`quarter_turns [count, 4]` = 0, 1, 2, 3 for each image, and the view's parameters."""
        return {"quarter_turns": torch.arange(4).repeat(count, 1), **self.views.draw((count,), generator)}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({"label": [f"{90 * int(q)} degrees" for q in labels["quarter_turns"].flatten()]})

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        return torch.nn.Linear(encoder.dim, 4)

    def step(self, encoder: EncoderModule, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views.flatten(0, 1))  # [4 * batch, dim]
        logits, target = head(embedding).float(), labels["quarter_turns"].flatten()
        return {
            "loss": F.cross_entropy(logits, target),
            "accuracy": (logits.argmax(1) == target).float().mean(),
            "embedding": embedding,
        }

    def render(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> Tensor:
        """`[batch, channels, side, side]` -> `[batch, 4, channels, side, side]`, counter-clockwise."""
        views = self.views.render(images, labels)
        return torch.stack([torch.rot90(views, turns, dims=(2, 3)) for turns in range(4)], dim=1)

    def picture(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> Tensor:
        return torch.cat([images[:, None], self.render(encoder, images, labels)], dim=1)

    def columns(self) -> list[str]:
        return ["image", "0", "90", "180", "270 degrees"]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(4)
