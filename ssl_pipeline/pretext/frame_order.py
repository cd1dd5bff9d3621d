"""Frame order: in which order were a few frames of a video taken?

Lee, Huang, Singh, Yang 2017, "Unsupervised Representation Learning by Sorting Sequences" (OPN): L = -log F_order(x_1 ... x_n)
over the n!/2 orders; an order and the one that a film run backwards would have are one class, as many motions look alike
either way.
Misra, Zitnick, Hebert 2016, "Shuffle and Learn": with `verify`, three frames are in order or they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.ordering import Ordering

torch = late("torch")

if TYPE_CHECKING:
    from torch import Generator, Tensor


class FrameOrder(Ordering):
    """Classification of the order of single frames."""

    task: Literal["frame_order"] = "frame_order"
    frames: int = Field(3, ge=3, le=5)
    """Shown of a clip: 3, 12 or 60 orders, twice as many with `direction`."""
    verify: bool = False
    """Ask only whether the frames are in order: two classes."""

    @property
    def pieces(self) -> int:
        return self.frames

    def classes(self) -> list[str]:
        return ["in order", "shuffled"] if self.verify else super().classes()

    def class_of(self) -> list[int]:
        return [min(number, 1) for number in super().class_of()] if self.verify else super().class_of()

    def draw_asked(self, count: int, generator: Generator) -> Tensor:
        asked = super().draw_asked(count, generator)
        if not self.verify:
            return asked
        other = torch.randint(1, asked.shape[1], (count, 1), generator=generator)  # the first one is that of time
        return torch.cat([asked[:, :1], asked.gather(1, other)], 1)
