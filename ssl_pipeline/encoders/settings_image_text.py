"""What a recipe may say of an encoder of images and of their captions."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssl_pipeline.encoders.settings import EncoderPart, ImageEncoder
from ssl_pipeline.encoders.settings_text import TextEncoder

LENGTH = 32
"""Tokens of a caption where a recipe says nothing else."""


class ImageTextEncoder(EncoderPart):
    """Two towers, one for images and one for text, each projected into one space. What is deployed is the image's side."""

    packed = frozenset({"image", "text", "captions"})
    kind: Literal["image_text"] = "image_text"

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder(length=LENGTH)
    """Its `length` is 32 tokens where nothing else is said."""
    dim: int = Field(256, ge=2)
    """Of the joint embedding."""
    captions: int = Field(5, ge=1, le=100)
    """Of an image that has more, the first so many are used."""
    frozen: Literal["none", "image", "text", "both"] = "none"
    """Towers that keep their pretrained weights, under projections that learn (Zhai et al. 2022, "LiT")."""

    @property
    def image_size(self) -> int:
        return self.image.image_size

    def packing(self) -> dict[str, Any]:
        towers = {"image": self.image.packing(), "text": self.text.packing()}
        return {"kind": self.kind, "captions": self.captions} | towers

    def without_weights(self) -> Self:
        towers = {"image": self.image.without_weights(), "text": self.text.without_weights()}
        return self.model_copy(update={"frozen": "none"} | towers)

    @field_validator("text", mode="before")
    @classmethod
    def captions_are_short(cls, text: Any) -> Any:
        return {"length": LENGTH} | text if isinstance(text, dict) else text

    @model_validator(mode="after")
    def frozen_towers_know_something(self) -> Self:
        for tower in ("image", "text"):
            if self.frozen in (tower, "both") and not getattr(self, tower).pretrained:
                raise ValueError(
                    f"frozen {self.frozen!r} keeps the {tower} tower as it is made, at random: set {tower}.pretrained "
                    f"or let it learn with frozen: {'none' if self.frozen == tower else 'the other tower'}"
                )
        return self
