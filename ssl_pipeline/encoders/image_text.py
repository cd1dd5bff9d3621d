"""Images and captions: a tower for each, projected into one space.

The embedding of an image is what the deployed model gives; `text` embeds captions beside it. Radford et al. 2021, section 2.4:
linear projections, no hidden layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pipeline.encoders import image, text
from ssl_pipeline.encoders.encoder import Batch, Encoder

if TYPE_CHECKING:
    from ssl_pipeline.encoders.image import ImageEncoder
    from ssl_pipeline.encoders.settings_image_text import ImageTextEncoder as Settings
    from ssl_pipeline.encoders.text import TextEncoder


class ImageTextEncoder(Encoder):
    """images `[batch, channels, side, side]` in 0..1 -> `[batch, dim]`; token ids `[batch, length]` -> `[batch, dim]`. Neither
    is normalised."""

    takes = "image"

    def __init__(self, image_tower: ImageEncoder, text_tower: TextEncoder, settings: Settings) -> None:
        super().__init__()
        self.image_tower, self.text_tower = image_tower, text_tower
        self.image_projection = nn.Linear(image_tower.dim, settings.dim, bias=False)
        self.text_projection = nn.Linear(text_tower.dim, settings.dim, bias=False)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.dim, self.image_size = settings.dim, image_tower.image_size
        towers: dict[str, Encoder] = {"image": image_tower, "text": text_tower}
        self.frozen = [tower for name, tower in towers.items() if settings.frozen in (name, "both")]
        for tower in self.frozen:
            tower.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Frozen towers stay in evaluation mode: their batch norms, too, are as they were."""
        super().train(mode)
        for tower in self.frozen:
            tower.eval()
        return self

    def read(self, batch: Batch) -> dict[str, Tensor]:
        """`images` in 0..1 and, where there are captions, `tokens [batch, captions, length]` as long and their `count`."""
        inputs = {"images": self.image_tower.read(batch)}
        if "tokens" in batch:
            inputs |= {"tokens": batch["tokens"].long(), "count": batch["count"]}
        return inputs

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.image_projection(self.image_tower(inputs["images"]))

    def tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        """Of the image."""
        return self.image_tower.tokens(inputs["images"])

    def text(self, tokens: Tensor) -> Tensor:
        """`[batch, length]` -> `[batch, dim]`; on a CPU without the columns that are padding in all."""
        return self.text_projection(self.text_tower(self.text_tower.read({"tokens": tokens})))

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        return self.image_tower.example(count, generator)

    def show(self, batch: Batch) -> np.ndarray | list[str]:
        return self.image_tower.show(batch)

    def tokenize(self, captions: list[str]) -> Tensor:
        """`[n, length]`, for `text`."""
        tower = self.text_tower
        tokens = torch.full((len(captions), tower.length), tower.special["pad"])
        for row, encoding in zip(tokens, tower.tokenizer.encode_batch(captions, add_special_tokens=False), strict=True):
            ids = [tower.special["cls"], *encoding.ids[: tower.length - 2], tower.special["sep"]]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def read_out(self, tokens: Tensor) -> list[str]:
        """Texts of `[n, length]`, as far as the vocabulary keeps them."""
        return self.text_tower.show({"tokens": tokens})

    def blocks(self) -> list[nn.Module]:
        """None of its own: the towers are encoders, whose blocks are found with them."""
        return []


def build(settings: Settings, facts: dict[str, Any]) -> ImageTextEncoder:
    """`facts`: those of images and, under `text`, those of texts."""
    return ImageTextEncoder(image.build(settings.image, facts), text.build(settings.text, facts["text"]), settings)
