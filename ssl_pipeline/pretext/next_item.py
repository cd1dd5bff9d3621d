"""Next item: at every place of a history, which item was chosen next?

Kang & McAuley 2018, "Self-Attentive Sequential Recommendation" (SASRec), section 3.5
L = -mean_t log softmax_i(h_t . e_i)[s_{t+1}],  over all items, where the paper compares with one drawn at random (see items.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
pd = late("pandas")
items_of = late("ssl_pipeline.pretext.items")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.settings import EncoderPart


class NextItem(PretextTask):
    """Causal prediction over a user's sequence."""

    task: Literal["next_item"] = "next_item"
    kinds: ClassVar[tuple[str, ...]] = ("interactions",)
    encoder_passes: ClassVar[int] = 1

    def fitted(self, encoder: Any) -> Self:
        if not encoder.causal:
            raise ValueError(
                "encoder.causal false lets a place see the item that next_item asks it for: set encoder.causal to true, or "
                "pretext.task to masked_items"
            )
        return self

    def draw(self, count: int, encoder: EncoderPart, generator: Generator) -> Labels:
        """Nothing is left to chance: a window asks for what follows. `window [count]` is its number."""
        return {"window": torch.arange(count, dtype=torch.int32)}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({"window": labels["window"].numpy()})

    def build_head(self, encoder: Any) -> nn.Module:
        """None: items are scored by their embeddings."""
        return torch.nn.Identity()

    def render(self, encoder: Any, inputs: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
        """`[batch, places + 1]` (negative: seen, not asked for) -> what is seen and what follows, `[batch, places]` each; 0
        where nothing is asked."""
        seen, following = inputs[:, :-1].abs(), inputs[:, 1:]
        return seen, torch.where(seen > 0, following.clamp(min=0), 0)

    def step(self, encoder: Any, head: nn.Module, views: tuple[Tensor, Tensor], labels: Labels) -> dict[str, Any]:
        seen, target = views
        hidden = encoder.hidden(seen)
        place = torch.arange(seen.shape[1], device=seen.device)
        already = items_of.first_seen(seen, encoder.items)[:, None] <= place[:, None]  # [batch, places, N]
        loss, hits = items_of.loss_of_items(encoder.scores(hidden), target, already)
        return {"loss": loss, "hit_at_10": hits, "embedding": hidden[:, -1]}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> list[list[str]]:
        seen, target = self.render(encoder, inputs, labels)
        return [
            [encoder.tell(row), encoder.name(asked[-1])]
            for row, asked in zip(seen.tolist(), target.tolist(), strict=True)
        ]

    def columns(self) -> list[str]:
        return ["history", "what follows?"]
