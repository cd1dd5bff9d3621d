"""Masked language modelling: which tokens stood where the text was hidden?

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", section 3.1: of the
places that are asked for, 80% show [MASK], 10% a random token and 10% what stood there; without the next-sentence task
L = -mean over asked places of log softmax_v(h_t . e_v + b_v)[w_t],  h from the head, e the encoder's own token embeddings

Wettig et al. 2023, "Should You Mask 15% in Masked Language Modeling?": 30% here, which makes more of a step.
Every block asks for the same number of places, so that a step's shapes never change and a mean over blocks is exact however
they are spread over processes; and only there are tokens predicted, which is what most of a small model's time would go to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
F = late("torch.nn.functional")
pd = late("pandas")
transformers = late("transformers")
bert = late("transformers.models.bert.modeling_bert")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

SHOWN = 0.8, 0.1
"""Of the asked places: [MASK], a random token. The rest show what stood there."""


class MaskedLanguage(PretextTask):
    """Prediction of hidden tokens."""

    task: Literal["masked_language"] = "masked_language"
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    keeps_head: ClassVar[bool] = True
    encoder_passes: ClassVar[int] = 1
    mask_ratio: float = Field(0.3, gt=0, lt=1)
    """Share of a block's places that is asked for."""
    whole_words: bool = False
    """Hide all of a word's tokens or none (a block's last word may be cut), so that its pieces do not tell one another."""
    vocabulary: int | None = None
    """Taken from the encoder."""

    def fitted(self, encoder: Any) -> Self:
        trained = encoder.tokenizer == "train" and encoder.pretrained is False
        return self.model_copy(update={"vocabulary": encoder.vocabulary if trained else None})

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`noise [count, length]`, whose order is the order in which places are asked for, and `random [count, few]`, what
        is shown instead of some tokens."""
        _, random = shown(self.asked(encoder.length))
        whole = {"generator": generator, "dtype": torch.int16}
        return {
            "noise": torch.randint(-(2**15), 2**15, (count, encoder.length), **whole),
            "random": torch.randint(2**31 - 1, (count, random), generator=generator, dtype=torch.int32),
        }

    def asked(self, length: int) -> int:
        """How many of a block's places are asked for."""
        return max(1, round(self.mask_ratio * length))

    def table(self, labels: Labels) -> DataFrame:
        """`places` in the order in which they are asked for, before special tokens are passed over."""
        order = labels["noise"].argsort(dim=1, stable=True)
        return pd.DataFrame({"places": list(order[:, : self.asked(order.shape[1])].numpy())})

    def build_head(self, encoder: Any) -> nn.Module:
        """BERT's own: a layer, GELU, a norm; then the encoder's embeddings with a bias a token."""
        config = transformers.BertConfig(hidden_size=encoder.dim, layer_norm_eps=1e-5)
        head = bert.BertPredictionHeadTransform(config)
        torch.nn.init.normal_(head.dense.weight, std=config.initializer_range)
        torch.nn.init.zeros_(head.dense.bias)
        head.bias = torch.nn.Parameter(torch.zeros(encoder.vocabulary))
        return head

    def render(self, encoder: Any, inputs: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens `[batch, length]` -> what is shown `[batch, length]`; and the places `[batch, asked]` and their tokens."""
        asked = self.asked(inputs.shape[1])
        masked, random = shown(asked)
        noise = labels["noise"].int()
        if self.whole_words:
            place = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
            first = place.masked_fill(encoder.continues(inputs), 0).cummax(1).values
            noise = noise.gather(1, first)
        special = encoder.is_special[inputs]
        order = noise.masked_fill(special, 2**15).argsort(dim=1, stable=True)
        # where a block has fewer tokens than are asked for, they are asked for again
        rank = torch.arange(asked, device=inputs.device) % (~special).sum(1, keepdim=True).clamp(1, asked)
        places = order.gather(1, rank)  # [batch, asked]
        target = inputs.gather(1, places)
        choice = labels["random"].long().gather(1, (rank - masked).clamp(0, max(0, random - 1))) if random else target
        instead = torch.where(rank < masked, encoder.special["mask"], choice % encoder.vocabulary)
        instead = torch.where(rank < masked + random, instead, target)
        return inputs.scatter(1, places, instead), places, target

    def step(self, encoder: Any, head: Any, views: tuple[Tensor, Tensor, Tensor], labels: Labels) -> dict[str, Any]:
        tokens, places, target = views
        hidden = encoder.hidden(tokens, padded=False)  # [batch, length, dim]
        wanted = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2])).flatten(
            0, 1
        )  # [batch * asked, dim]
        logits = F.linear(head(wanted), encoder.embeddings, head.bias).float()  # [batch * asked, vocabulary]
        target = target.flatten()
        return {
            "loss": F.cross_entropy(logits, target),
            "accuracy": (logits.detach().argmax(1) == target).float().mean(),
            "embedding": encoder.pool(hidden),
        }

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity of a mean loss; the mean of perplexities is another number."""
        return {"perplexity": math.exp(min(means["loss"], 100.0))}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> list[list[str]]:
        tokens, places, target = self.render(encoder, inputs, labels)
        target = target.gather(1, places.argsort(1))
        return [list(cells) for cells in zip(*map(encoder.tell, (inputs, tokens, target)), strict=True)]

    def columns(self) -> list[str]:
        return ["text", "what the encoder sees", "what is asked for"]

    def collapse_loss(self, batch_size: int) -> float | None:
        """Of guessing, every token as likely as any other."""
        return math.log(self.vocabulary) if self.vocabulary else None


def shown(asked: int) -> tuple[int, int]:
    """Of so many places: how many show [MASK], and how many a random token."""
    masked = max(1, round(SHOWN[0] * asked))
    return masked, min(asked - masked, round(SHOWN[1] * asked))
