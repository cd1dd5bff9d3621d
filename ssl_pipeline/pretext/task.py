"""What a pretext task is: its settings (fields, part of the recipe) and its few pure parts (methods).

A task draws labels for samples from a generator, and turns a batch of images and their labels into a loss. The loop, the
label table, the picture in the UI and the diagnostics are the same for every task and read only this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ssl_pipeline.part import Part

if TYPE_CHECKING:
    import pandas as pd
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.recipe import Encoder

Labels = dict[str, "Tensor"]


class PretextTask(Part):
    """Base of all tasks. A subclass sets `task: Literal["its_name"]` and is imported in `pretext/__init__.py`."""

    task: str
    encoder_passes: ClassVar[int]
    """How many images the encoder sees for one source image: the unit in which budgets are compared."""

    def check(self, encoder: Encoder) -> None:
        """Raises ValueError where these settings do not fit the encoder's; runs when the recipe is loaded."""

    def draw(self, count: int, encoder: Encoder, generator: Generator) -> Labels:
        """Pretext labels of `count` samples for one epoch: CPU tensors `[count, ...]`, decided by `generator` alone."""
        raise NotImplementedError

    def table(self, labels: Labels) -> pd.DataFrame:
        """The labels as a person or pandas reads them, `count` rows or a multiple of it in sample order; the column
        `label`, where there is one, is what the balance is counted over."""
        raise NotImplementedError

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        """What is trained on top of the encoder and thrown away afterwards."""
        raise NotImplementedError

    def render(self, images: Tensor, labels: Labels) -> Any:
        """What the encoder is shown, without gradients: `images [batch, channels, side, side]` in 0..1 and their labels ->
        whatever `step` takes as views."""
        return images

    def step(self, encoder: EncoderModule, head: nn.Module, views: Any, labels: Labels) -> dict[str, Any]:
        """One batch: what `render` returned and the labels -> `loss` (scalar), `embedding [n, dim]` for the collapse
        diagnostics, and any further scalars worth a curve."""
        raise NotImplementedError

    def after_step(self, encoder: EncoderModule, head: nn.Module, progress: float) -> None:
        """What follows an optimizer step, such as moving a teacher; `progress` goes from 0 to 1 over the run."""

    def picture(self, images: Tensor, labels: Labels) -> Tensor:
        """Rows of a sheet that shows what the encoder is asked: `[batch, columns, channels, side, side]` in 0..1."""
        raise NotImplementedError

    def columns(self) -> list[str]:
        """Titles of the sheet's columns."""
        return []

    def collapse_loss(self, batch_size: int) -> float | None:
        """The loss of an encoder that has learnt nothing or collapsed, if there is such a constant."""
        return None
