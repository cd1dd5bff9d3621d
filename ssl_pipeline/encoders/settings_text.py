"""What a recipe may say of an encoder of text."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.encoders.settings import EncoderPart

MOST_TOKENS = 65_535
"""That a vocabulary may have: tokens are kept as 16-bit numbers."""


class TextEncoder(EncoderPart):
    """A transformer over the tokens of a document."""

    packed = frozenset({"length", "vocabulary", "lowercase", "tokenizer", "pretrained"})
    decided: ClassVar[tuple[str, ...]] = (
        "architecture",
        "layers",
        "width",
        "heads",
        "vocabulary",
        "subwords",
        "lowercase",
    )
    """Fields that a pretrained model brings with it."""
    kind: Literal["text"] = "text"

    architecture: Literal["bert", "modernbert"] = "bert"
    """`bert` (Devlin 2019) adds learned places; `modernbert` (Warner 2024) rotates by them and gates its layers."""
    layers: int = Field(4, ge=1)
    width: int = Field(256, ge=8)
    """Of the embedding."""
    heads: int = Field(4, ge=1)
    length: int = Field(128, ge=8, le=8192)
    """Tokens of a block that is trained on, and of a document that is embedded: the first ones of a longer one."""
    vocabulary: int = Field(8000, ge=300, le=MOST_TOKENS)
    """Tokens of the tokenizer that is trained on the dataset: 256 bytes, 5 special ones, and the commonest pieces."""
    lowercase: bool = True
    tokenizer: str = Field("train", min_length=1)
    """`train` makes one from the training split; otherwise the path of a tokenizer.json or of a transformers folder."""
    pretrained: Literal[False] | str = False
    """Start from a transformers folder (its path), whose model and tokenizer are then used; weights in safetensors only."""
    dropout: float = Field(0.1, ge=0, lt=1)
    pooling: Literal["mean", "cls"] = "mean"
    """A document's embedding: the mean of its tokens', or that of the [CLS] token before them."""

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}: set heads to "
                f"{next(n for n in range(self.heads, 0, -1) if self.width % n == 0)}"
            )
        if self.architecture == "modernbert" and self.width // self.heads % 2:
            raise ValueError(f"heads of width {self.width // self.heads} cannot be rotated: make width / heads even")
        if isinstance(self.pretrained, str) and (said := [f for f in self.decided if f in self.model_fields_set]):
            raise ValueError(f"{said[0]} is decided by the pretrained model {self.pretrained!r}: leave it out")
        return self
