"""The encoder of interactions: a transformer over the items that a user chose, whose embedding of the user scores all items.

Kang & McAuley 2018, "Self-Attentive Sequential Recommendation" (SASRec), section 3, where `causal`; Sun et al. 2019,
"BERT4Rec", section 3, where not. Both predict with the item embeddings that they read (tied). Blocks normalise before each
part (Xiong et al. 2020), which needs no careful warm-up.

Items are numbers from 1 to N; 0 fills histories up on the left, so that the latest item always stands at the last place,
and N + 1 is the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder


class Interactions(Encoder):
    """Histories `[batch, length]` of item numbers, left-padded with 0 -> embedding of the user `[batch, width]`."""

    takes = "items"
    features: Tensor | None

    def __init__(self, settings: InteractionsEncoder, items: int, names: list[str], feature_dim: int = 0) -> None:
        super().__init__()
        width = settings.width
        self.items, self.names, self.dim = items, names, width
        self.causal, self.length = settings.causal, settings.length
        self.item = nn.Embedding(items + 2, width)
        self.position = nn.Parameter(torch.empty(settings.length, width))
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(Block(width, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("features", None)
        if feature_dim:
            # not a number until they are filled in: a model that was never given its features must not pass for one
            self.features = torch.full((items + 2, feature_dim), torch.nan)
            self.describe = nn.Linear(feature_dim, width, bias=False)
        self.apply(initialise)
        nn.init.normal_(self.position, std=0.02)

    @property
    def mask(self) -> int:
        """The number that stands for a hidden item."""
        return self.items + 1

    def read(self, batch: Batch) -> Tensor:
        return batch["items"].long()

    def forward(self, inputs: Tensor) -> Tensor:
        """The hidden state at the last place; a bidirectional encoder gets a mask there, after the history."""
        if not self.causal:
            inputs = torch.cat([inputs[:, 1:], torch.full_like(inputs[:, :1], self.mask)], dim=1)
        return self.hidden(inputs)[:, -1]

    def hidden(self, items: Tensor) -> Tensor:
        """`[batch, at most length]` -> `[batch, as many, width]`. Places with 0 are seen by none but themselves."""
        places = items.shape[1]
        x = self.dropout(F.embedding(items, self.table()) + self.position[-places:])
        visible = (items > 0)[:, None, None, :].expand(-1, 1, places, -1)  # [batch, head, place, seen place]
        everyone = torch.ones(places, places, dtype=torch.bool, device=items.device)
        if self.causal:
            visible = visible & everyone.tril()
        visible = visible | torch.eye(
            places, dtype=torch.bool, device=items.device
        )  # softmax over nothing is no number
        for block in self.layers:
            x = block(x, visible)
        return self.norm(x)

    def scores(self, hidden: Tensor) -> Tensor:
        """`[..., width]` -> `[..., N]`: how well each item from 1 to N fits, as logits."""
        return F.linear(hidden, self.table()[1 : self.items + 1])

    def table(self) -> Tensor:
        """Embeddings of all item numbers `[N + 2, width]`, with what their features add."""
        if self.features is None:
            return self.item.weight
        return self.item.weight + self.describe(self.features)

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        items = torch.randint(1, self.items + 1, (count, self.length), generator=generator, dtype=torch.int32)
        empty = torch.randint(0, self.length, (count, 1), generator=generator)
        return {"items": items * (torch.arange(self.length) >= empty)}

    def show(self, batch: Batch) -> list[str]:
        """Histories as the names of their items, the latest last."""
        return [self.tell(row) for row in batch["items"].tolist()]

    def tell(self, row: list[int]) -> str:
        return ", ".join(self.name(item) for item in row if item) or "nothing yet"

    def name(self, item: int) -> str:
        number = abs(item)
        return "?" if number == self.mask else self.names[number - 1] if self.names else f"item {number}"

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)


class Block(nn.Module):
    """Attention and a two-layer network, each after a layer norm and added to what it read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """`[batch, places, width]`, bool `[batch, 1, places, places]`"""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.drop if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, dropout_p=drop
        )  # [batch, head, place, width / heads]
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm2(x)))


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def build(settings: InteractionsEncoder, facts: dict[str, Any]) -> Interactions:
    """`facts`: `items` (their number), `names` (of them, or none), and with item features `item_features`: their `dim`, and
    `file` below `folder`, where the values are read from; without it they are expected to come with the weights.

    Raises PipelineError where the file is not what the facts say.
    """
    about = facts.get("item_features")
    encoder = Interactions(settings, facts["items"], facts.get("names") or [], about["dim"] if about else 0)
    if about and "folder" in facts:
        path = Path(facts["folder"]) / about["file"]
        try:
            values = np.load(path)
        except (OSError, ValueError) as error:
            raise PipelineError(f"item features {path}: cannot be read ({error}): build the pack again") from error
        if values.shape != (facts["items"] + 2, about["dim"]):
            raise PipelineError(f"item features {path}: {values.shape}, not of this pack: build it again")
        encoder.features = torch.from_numpy(values.astype(np.float32))
    return encoder
