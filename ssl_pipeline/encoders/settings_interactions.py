"""What a recipe may say of an encoder of interactions. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.encoders.settings import EncoderPart


class InteractionsEncoder(EncoderPart):
    """A small transformer over the sequence of a user's items."""

    packed = frozenset({"length", "causal"})
    kind: Literal["interactions"] = "interactions"

    causal: bool = True
    """Each place sees those before it (next_item); false: it sees all (masked_items)."""
    length: int = Field(50, ge=2, le=4096)
    """Items of a history that it sees, the latest."""
    width: int = Field(128, ge=2)
    """Of the embedding."""
    layers: int = Field(1, ge=1)
    """One, where data is as small as MovieLens-100k: a second one predicted its validation items no better."""
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    item_features: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None
    """Another recipe, whose encoder was made of the items' texts or pictures: a learned projection of its features is added to an
    item's embedding. `group` of that recipe's dataset is the item's identifier."""

    @model_validator(mode="after")
    def heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            fitting = [heads for heads in range(1, self.width + 1) if self.width % heads == 0]
            nearest = min(fitting, key=lambda heads: abs(heads - self.heads))
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}: set heads to {nearest}")
        return self
