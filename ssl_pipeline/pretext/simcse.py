"""SimCSE without labels: a document read twice attracts itself, all others in the batch repel; dropout alone makes the
two readings differ.

Gao, Yao, Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", section 3, eq. 4
l(i) = -log( exp(sim(h_i, h_i') / t) / sum_j exp(sim(h_i, h_j') / t) ),  sim = cosine, t = 0.05

The loss here is NT-Xent (Chen 2020, eq. 1), which is this one in both directions with the other documents' first readings as
negatives, too: twice the negatives for the same work.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
pd = late("pandas")
contrast = late("ssl_pipeline.pretext.contrast")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn


class SimCSE(PretextTask):
    """Contrastive learning on documents."""

    task: Literal["simcse"] = "simcse"
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    trains_on: ClassVar[Literal["rows", "samples"]] = "samples"
    encoder_passes: ClassVar[int] = 2
    compares_samples: ClassVar[bool] = True
    temperature: float = Field(0.05, gt=0)

    def fitted(self, encoder: Any) -> Self:
        if encoder.dropout == 0:
            raise ValueError("encoder.dropout 0 makes both readings of a document the same: set it to 0.1")
        return self

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`readings [count]`: two of each. What differs is drawn inside the encoder."""
        return {"readings": torch.full((count,), 2, dtype=torch.uint8)}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({"readings": labels["readings"].numpy()})

    def build_head(self, encoder: Any) -> nn.Module:
        """A layer and tanh over the embedding, thrown away afterwards (section 6.3)."""
        return torch.nn.Sequential(torch.nn.Linear(encoder.dim, encoder.dim), torch.nn.Tanh())

    def step(self, encoder: Any, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        training = encoder.training
        encoder.train()  # dropout is the task: a validation loss without it would ask nothing
        embedding = encoder(views.repeat(2, 1))  # [2 * batch, dim]: all first readings, all second
        encoder.train(training)
        z1, z2 = head(embedding).chunk(2)
        return {"loss": contrast.nt_xent(z1, z2, self.temperature), "embedding": embedding}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> list[list[str]]:
        return [[text] for text in encoder.tell(inputs)]

    def columns(self) -> list[str]:
        return ["read twice"]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1)
