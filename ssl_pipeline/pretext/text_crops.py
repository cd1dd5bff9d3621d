"""Text crops: two random spans of a document attract each other, those of other documents repel.

Izacard et al. 2022, "Unsupervised Dense Information Retrieval with Contrastive Learning" (Contriever), section 3.1: independent
cropping; Giorgi et al. 2021, "DeCLUTR", section 3.1
l(i) = -log( exp(sim(h_i, h_i') / t) / sum_{k != i} exp(sim(h_i, h_k) / t) ),  sim = cosine, no head on the embedding
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
pd = late("pandas")
contrast = late("ssl_pipeline.pretext.contrast")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn


class TextCrops(PretextTask):
    """Contrastive learning on spans of documents."""

    task: Literal["text_crops"] = "text_crops"
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    trains_on: ClassVar[Literal["rows", "samples"]] = "samples"
    encoder_passes: ClassVar[int] = 2
    compares_samples: ClassVar[bool] = True
    temperature: float = Field(0.1, gt=0)
    min_share: float = Field(0.1, gt=0, le=1)
    """Of a document's tokens, in its shortest span; spans may overlap. Short ones ask for the topic instead of the words."""
    max_share: float = Field(0.3, gt=0, le=1)

    @model_validator(mode="after")
    def shares_are_in_order(self) -> Self:
        if self.min_share > self.max_share:
            raise ValueError(f"min_share {self.min_share} is above max_share {self.max_share}: swap them")
        return self

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`share [count, 2]` of the document that each span is long, and `place [count, 2]` in 0..1 where it begins."""
        share = torch.empty(count, 2).uniform_(self.min_share, self.max_share, generator=generator)
        return {"share": share, "place": torch.rand(count, 2, generator=generator)}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({f"span{i}_{name}": value[:, i].numpy() for name, value in labels.items() for i in (0, 1)})

    def build_head(self, encoder: Any) -> nn.Module:
        """None: the embedding itself is compared."""
        return torch.nn.Identity()

    def render(self, encoder: Any, inputs: Tensor, labels: Labels) -> Tensor:
        """Padded tokens `[batch, length]` -> `[2 * batch, at most length]`: first spans, then second ones, each between [CLS]
        and [SEP] as a document is."""
        share, place = labels["share"].T.reshape(-1, 1), labels["place"].T.reshape(-1, 1)
        tokens, pad = inputs.repeat(2, 1), encoder.special["pad"]
        words = (tokens != pad).sum(1, keepdim=True) - 2  # without [CLS] and [SEP]
        length = (share * words).ceil().long().clamp(min=1)
        start = (place * (words - length + 1)).long()
        column = torch.arange(tokens.shape[1], device=tokens.device)
        span = tokens.gather(1, (start + column).clamp(max=tokens.shape[1] - 1))  # the token before the span, then it
        span = span.where((column > 0) & (column <= length), pad)
        span = span.where(column != 0, encoder.special["cls"]).where(column != length + 1, encoder.special["sep"])
        return encoder.trim(span)

    def step(self, encoder: Any, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        embedding = encoder(views)  # [2 * batch, dim]
        z1, z2 = head(embedding).chunk(2)
        return {"loss": contrast.nt_xent(z1, z2, self.temperature), "embedding": embedding}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> list[list[str]]:
        first, second = self.render(encoder, inputs, labels).chunk(2)
        return [list(row) for row in zip(*(encoder.tell(part) for part in (inputs, first, second)), strict=True)]

    def columns(self) -> list[str]:
        return ["document", "span 1", "span 2"]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1)
