"""What tasks on the order of a video's pieces share: which pieces, shown how, and in which orders they are asked for.

Pieces are taken from a clip at random distances. They are all cropped, flipped and coloured alike; what could give the order
away without anything being recognised is spoiled piece by piece: a small shift of the crop hides that the camera stood still,
one colour channel in place of three hides chromatic aberration (Lee et al. 2017, section 3.3), random light hides a fade.

The encoder sees each frame by itself, so its embeddings serve every order: all classes are asked of each clip, at no more
passes, and are equally frequent in each batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")
pd = late("pandas")
pairs = late("ssl_pipeline.pretext.pairs")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule

LIGHT = (0.299, 0.587, 0.114)


class Ordering(PretextTask):
    """Base of tasks that shuffle `pieces` pieces of `piece_frames` frames each and ask for their order."""

    kinds: ClassVar[tuple[str, ...]] = ("video",)
    keeps_head: ClassVar[bool] = True
    encoder_passes: ClassVar[int] = 1
    """The pieces are no more than the clip."""

    views: Views = Views(min_scale=0.5, blur=False)
    """Of a clip: the same for all its pieces."""
    shift: float = Field(0.02, ge=0, le=0.5)
    """Largest shift of a piece's crop against the clip's, of the image's side."""
    light: float = Field(0.1, ge=0, lt=1)
    """Largest change of a piece's brightness against the clip's, as a factor."""
    split_channels: bool = True
    """Show each piece in one of its colours, or in grey, instead of in colour."""
    gap: int = Field(2, ge=1)
    """Least number of steps from one piece to the next."""
    direction: bool = False
    """Keep an order apart from the one that the same frames have in a film run backwards; otherwise they are one class."""
    hidden_dim: int = Field(128, ge=2)
    """Width of a comparison of two pieces."""

    @property
    def pieces(self) -> int:
        raise NotImplementedError

    @property
    def piece_frames(self) -> int:
        return 1

    @property
    def stride(self) -> int:
        """Least number of frames from the start of a piece to that of the next."""
        return self.piece_frames - 1 + self.gap

    def fitted(self, encoder: Any) -> Self:
        needed = (self.pieces - 1) * self.stride + self.piece_frames
        if encoder.frames < needed:
            raise ValueError(
                f"{self.pieces} pieces of {self.piece_frames} frames with pretext.gap {self.gap} need {needed} frames, and "
                f"encoder.frames is {encoder.frames}: raise it to {needed + self.pieces} or lower pretext.gap"
            )
        return self

    def orders(self) -> list[tuple[int, ...]]:
        """Every order: the piece, counted in time, that stands at each place."""
        return list(permutations(range(self.pieces)))

    def classes(self) -> list[str]:
        return [" ".join(map(str, order)) for order in self.representatives()]

    def representatives(self) -> list[tuple[int, ...]]:
        """An order of each class."""
        return [order for order in self.orders() if self.direction or order < backwards(order)]

    def class_of(self) -> list[int]:
        """The class of every order."""
        classes = self.representatives()
        return [classes.index(order if order in classes else backwards(order)) for order in self.orders()]

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`start [count, pieces]`, the pieces' first frames in the order of time; `asked [count, classes]`, numbers of the
        orders that are asked for, one of each class; `channel [count, pieces]` and the views' parameters."""
        free = encoder.frames - (self.pieces - 1) * self.stride - self.piece_frames
        # sorted places with repetition are sorted distinct ones, each moved back by those before it
        distinct = torch.rand(count, free + self.pieces, generator=generator).argsort(1)[:, : self.pieces]
        start = distinct.sort(1).values + torch.arange(self.pieces) * (self.stride - 1)
        channel = torch.randint(4, (count, self.pieces), generator=generator)
        small = {"start": start, "asked": self.draw_asked(count, generator), "channel": channel}
        return {name: value.to(torch.uint8) for name, value in small.items()} | self.draw_views(count, generator)

    def draw_asked(self, count: int, generator: Generator) -> Tensor:
        """`[count, classes]`: half of the orders as in a film run backwards, where that is the same class."""
        orders, ways = self.orders(), self.representatives()
        either = torch.tensor([[orders.index(way), orders.index(backwards(way))] for way in ways])  # [classes, 2]
        turned = (torch.rand(count, len(ways), generator=generator) < 0.5) & (not self.direction)
        return either[torch.arange(len(ways)), turned.long()]

    def draw_views(self, count: int, generator: Generator) -> Labels:
        """Parameters `[count, pieces, ...]` of the pieces' views."""
        clip = self.views.draw((count, 1), generator)
        views = {name: value.repeat(1, self.pieces, *[1] * (value.ndim - 2)) for name, value in clip.items()}
        shift, light = (
            torch.empty(count, self.pieces, size).uniform_(-most, most, generator=generator)
            for size, most in ((2, 2 * self.shift), (1, self.light))  # the image's side is 2
        )
        room = (1 - views["affine"][..., :2].abs().sum(-1)).clamp(min=0)  # a crop stays inside the image
        views["affine"][..., 2] = torch.minimum(torch.maximum(views["affine"][..., 2] + shift, -room), room)
        views["color"][..., :1] *= 1 + light
        return views

    def table(self, labels: Labels) -> DataFrame:
        """A row an order that is asked for."""
        orders, classes, class_of = self.orders(), self.classes(), self.class_of()
        asked = labels["asked"].flatten().tolist()
        start = labels["start"].repeat_interleave(labels["asked"].shape[1], 0)
        return pd.DataFrame(
            {
                "label": [classes[class_of[number]] for number in asked],
                "order": [" ".join(map(str, orders[number])) for number in asked],
                "first_frames": list(start.numpy()),
            }
        )

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        return pairs.OrderHead(self.feature_dim(encoder.dim), self.hidden_dim, self.orders(), self.class_of())

    def feature_dim(self, dim: int) -> int:
        return dim

    def feature(self, frames: Tensor) -> Tensor:
        """Embeddings of each piece's frames `[batch, pieces, piece_frames, dim]` -> `[batch, pieces, feature_dim]`"""
        return frames.squeeze(2)

    def render(self, encoder: EncoderModule, clips: Tensor, labels: Labels) -> Tensor:
        """`[batch, frames, channels, side, side]` -> the pieces in the order of time, `[batch, pieces, piece_frames,
        channels, side, side]`."""
        pieces, channels = self.taken(clips, labels), clips.shape[2]
        if self.split_channels and channels == 3:
            pieces = in_one_channel(pieces, labels["channel"].long())
        parameters = {
            name: labels[name].repeat_interleave(self.piece_frames, 1).flatten(0, 1)
            for name in ("affine", "color", "blur")
        }
        views = self.views.render(pieces.flatten(0, 2), parameters)
        return views.unflatten(0, pieces.shape[:3]).expand(-1, -1, -1, channels, -1, -1)

    def taken(self, clips: Tensor, labels: Labels) -> Tensor:
        """The pieces as they are in the clip, `[batch, pieces, piece_frames, channels, side, side]`."""
        start = labels["start"].long()
        frames = start[..., None] + torch.arange(self.piece_frames, device=start.device)
        return clips[torch.arange(len(clips), device=start.device)[:, None, None], frames]

    def step(self, encoder: Any, head: Any, views: Tensor, labels: Labels) -> dict[str, Any]:
        frames = encoder.embed_frames(views.flatten(1, 2))  # [batch, pieces * piece_frames, dim]
        features = self.feature(frames.unflatten(1, (self.pieces, self.piece_frames)))
        asked = labels["asked"].long()
        logits = head(features, asked).float().flatten(0, 1)  # [batch * classes, classes]
        target = head.class_of[asked].flatten()
        return {
            "loss": F.cross_entropy(logits, target),
            "accuracy": (logits.argmax(1) == target).float().mean(),
            "embedding": frames.flatten(0, 1),
        }

    def controls(self) -> dict[str, Callable[[Any], Any]]:
        """All pieces the first one: no order is left to be seen."""
        return {"one piece repeated": lambda views: views[:, :1].expand_as(views)}

    def picture(self, encoder: EncoderModule, clips: Tensor, labels: Labels) -> Tensor:
        """The pieces in the order of time, then in one of the orders asked, as the encoder sees them."""
        views = self.render(encoder, clips, labels).to(clips.dtype)
        order = torch.tensor(self.shown(labels), device=views.device)
        shown = views.gather(1, order[(..., *[None] * 4)].expand_as(views))
        cells = torch.cat([self.taken(clips, labels), shown], 1)  # [batch, 2 * pieces, piece_frames, ...]
        return cells.permute(0, 1, 3, 4, 2, 5).flatten(4)  # a piece's frames side by side

    def shown(self, labels: Labels) -> list[tuple[int, ...]]:
        """The order that each row of the picture shows: of the first row the first class, of the second the second."""
        orders, classes = self.orders(), labels["asked"].shape[1]
        return [orders[row[number % classes]] for number, row in enumerate(labels["asked"].tolist())]

    def row_titles(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> list[str]:
        return [" ".join(map(str, order)) for order in self.shown(labels)]

    def columns(self) -> list[str]:
        return [*(f"in time {i}" for i in range(self.pieces)), *(f"shown {i}" for i in range(self.pieces))]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(len(self.classes()))


def backwards(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order that the same pieces, shown at the same places, have where the film is run backwards: the first becomes the
    last. Who cannot tell which way time runs cannot tell the two apart (nor has to: they are one class)."""
    return tuple(len(order) - 1 - piece for piece in order)


def in_one_channel(pieces: Tensor, channel: Tensor) -> Tensor:
    """`[batch, pieces, frames, 3, side, side]` and `[batch, pieces]`, red, green, blue or 3 for grey -> one channel."""
    grey = sum(weight * pieces[:, :, :, i : i + 1] for i, weight in enumerate(LIGHT))
    which = channel[(..., *[None] * 4)]
    one = pieces.gather(3, which.clamp(max=2).expand(-1, -1, pieces.shape[2], 1, *pieces.shape[4:]))
    return torch.where(which == 3, grey, one)
