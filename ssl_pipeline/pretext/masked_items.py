"""Masked items: which items stood where the history was hidden?

Sun et al. 2019, "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", section 3.5
L = -mean over hidden places of log softmax_i(h_t . e_i)[s_t],  over all items

In a share of the windows the last item alone is hidden, as it is when an item is recommended (section 3.6). Every window
hides as many places, so that a step's shapes never change; those before the history's begin are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
pd = late("pandas")
items_of = late("ssl_pipeline.pretext.items")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn


class MaskedItems(PretextTask):
    """Cloze over a user's sequence."""

    task: Literal["masked_items"] = "masked_items"
    kinds: ClassVar[tuple[str, ...]] = ("interactions",)
    encoder_passes: ClassVar[int] = 1
    mask_ratio: float = Field(0.2, gt=0, lt=1)
    """Share of a window's places that is hidden."""
    last_share: float = Field(0.1, ge=0, le=1)
    """Share of windows in which only the last item is hidden."""

    def fitted(self, encoder: Any) -> Self:
        if encoder.causal:
            raise ValueError(
                "encoder.causal true hides what follows a masked item: set encoder.causal to false, or pretext.task to "
                "next_item"
            )
        return self

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`places [count, hidden]`, all different, of a window to hide; `last [count]`, whether to hide the last one instead."""
        hidden = max(1, round(encoder.length * self.mask_ratio))
        parts = [min(65536, count - at) for at in range(0, count, 65536)]  # noise for millions would take gigabytes
        places = [torch.rand(n, encoder.length, generator=generator).topk(hidden, dim=1).indices.short() for n in parts]
        last = torch.rand(count, generator=generator) < self.last_share
        return {"places": torch.cat(places), "last": last}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame(
            {
                "label": ["the last item" if last else "random items" for last in labels["last"].tolist()],
                "places": list(labels["places"].sort(dim=1).values.numpy()),
            }
        )

    def build_head(self, encoder: Any) -> nn.Module:
        """None: items are scored by their embeddings."""
        return torch.nn.Identity()

    def render(self, encoder: Any, inputs: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """`[batch, length]` (negative: seen, not asked for) -> what is seen `[batch, length]`; and places and their items
        `[batch, hidden + 1]`, 0 where nothing is asked. The last place is asked for where no other is."""
        end = inputs.shape[1] - 1
        places = torch.cat([labels["places"].long(), torch.full_like(inputs[:, :1], end)], dim=1)
        target = inputs.gather(1, places).clamp(min=0)
        others = target[:, :-1] * ~labels["last"][:, None]
        target = torch.cat([others, target[:, -1:] * (others == 0).all(1, keepdim=True)], dim=1)
        hidden = torch.zeros_like(inputs).scatter_add(1, places, target) > 0
        return torch.where(hidden, encoder.mask, inputs.abs()), places, target

    def step(
        self, encoder: Any, head: nn.Module, views: tuple[Tensor, Tensor, Tensor], labels: Labels
    ) -> dict[str, Any]:
        seen, places, target = views
        hidden = encoder.hidden(seen)  # [batch, length, width]
        asked = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        visible = items_of.first_seen(seen, encoder.items)[:, None] < seen.shape[1]  # [batch, 1, N]
        loss, hits = items_of.loss_of_items(encoder.scores(asked), target, visible)
        return {"loss": loss, "hit_at_10": hits, "embedding": hidden[:, -1]}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> list[list[str]]:
        seen, _, target = self.render(encoder, inputs, labels)
        return [
            [encoder.tell(row), encoder.tell(asked)] for row, asked in zip(seen.tolist(), target.tolist(), strict=True)
        ]

    def columns(self) -> list[str]:
        return ["history", "what is hidden?"]
