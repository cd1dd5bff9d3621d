"""What a pretext task is: its settings (fields, part of the recipe) and its few pure parts (methods).

A task draws labels for samples from a generator, and turns a batch of samples and their labels into a loss. The loop, the
label table, the picture in the UI and the diagnostics are the same for every task and read only this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ssl_pipeline.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.encoders.settings import EncoderPart as Encoder

Labels = dict[str, "Tensor"]


class PretextTask(Part):
    """Base of all tasks. A subclass sets `task: Literal["its_name"]` and is imported in `pretext/__init__.py`."""

    task: str
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    """The kinds of encoder that it fits."""
    trains_on: ClassVar[Literal["rows", "samples"]] = "rows"
    """`rows` are the pack's training rows, such as blocks of text, where it has any; `samples` are the samples themselves."""
    keeps_head: ClassVar[bool] = False
    """Its head is kept beside the encoder, so that the task itself can be measured on the test split."""
    compares_samples: ClassVar[bool] = False
    """Its loss compares the samples of a batch, or takes moments of them: in pieces (`accumulate`) it is another loss."""
    encoder_passes: ClassVar[int]
    """How many samples the encoder sees for one source sample: the unit in which budgets are compared."""

    def fitted(self, encoder: Encoder) -> Self:
        """These settings with whatever depends on the encoder's filled in; runs when the recipe is loaded. Raises ValueError
        where they do not fit it."""
        return self

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

    def render(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> Any:
        """What the encoder is shown, without gradients: what it reads (images `[batch, channels, side, side]` in 0..1) and
        their labels -> whatever `step` takes as views."""
        return inputs

    def step(self, encoder: EncoderModule, head: nn.Module, views: Any, labels: Labels) -> dict[str, Any]:
        """One batch: what `render` returned and the labels -> `loss` (scalar), `embedding [n, dim]` for the collapse
        diagnostics, and any further scalars worth a curve."""
        raise NotImplementedError

    def after_step(self, encoder: EncoderModule, head: nn.Module, progress: float) -> None:
        """What follows an optimizer step, such as moving a teacher; `progress` goes from 0 to 1 over the run."""

    def picture(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> Tensor | list[list[str]]:
        """Rows of a sheet that shows what the encoder is asked: images `[batch, columns, channels, height, width]` in 0..1,
        or cells of text."""
        raise NotImplementedError

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """What follows from means over the validation split, such as a perplexity from its loss."""
        return {}

    def controls(self) -> dict[str, Callable[[Any], Any]]:
        """What can be taken from the views so that the task should fail: by name, views -> views."""
        return {}

    def row_titles(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> list[str]:
        """Titles of the sheet's rows."""
        return []

    def columns(self) -> list[str]:
        """Titles of the sheet's columns."""
        return []

    def collapse_loss(self, batch_size: int) -> float | None:
        """The loss of an encoder that has learnt nothing or collapsed, if there is such a constant."""
        return None
