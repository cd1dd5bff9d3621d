"""What tasks on the order of a video's pieces share: which pieces, in which order, shown how, and asked of whom.

Pieces are taken from a clip at random distances and shuffled. They are all cropped and flipped alike; what could give the
order away without anything being recognised is spoiled piece by piece: a small shift of the crop hides that the camera stood
still, one colour channel in place of three hides chromatic aberration (Lee et al. 2017, section 3.3), random light hides a fade.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")
pd = late("pandas")
comparing = late("ssl_pipeline.pretext.pairs")

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

    views: Views = Views(min_scale=0.5, color=0.3, blur=False)
    """Crop and flip are a clip's, light and colour a piece's."""
    shift: float = Field(0.03, ge=0, le=0.5)
    """Largest shift of a piece's crop against the clip's, of the image's side."""
    split_channels: bool = True
    """Show each piece in one of its colours, or in grey, instead of in colour."""
    gap: int = Field(1, ge=1)
    """Least number of steps from one piece to the next."""
    direction: bool = False
    """Keep an order and its reverse apart; otherwise they are one class."""
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
                f"pretext needs clips of {needed} frames for {self.pieces} pieces of {self.piece_frames} with gap {self.gap}, and "
                f"encoder.frames is {encoder.frames}: raise it to {needed + self.pieces} or lower pretext.gap"
            )
        return self

    def orders(self) -> list[tuple[int, ...]]:
        """The classes: the piece, counted in time, that stands at each place."""
        every = list(permutations(range(self.pieces)))
        return every if self.direction else [order for order in every if order[0] < order[-1]]

    def classes(self) -> list[str]:
        return [" ".join(map(str, order)) for order in self.orders()]

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`start [count, pieces]`, the pieces' first frames in the order of time, `order [count, pieces]`, which of them
        stands at each place, `target [count]`, that order's class, `channel [count, pieces]` and the views' parameters."""
        free = encoder.frames - (self.pieces - 1) * self.stride - self.piece_frames
        # sorted places with repetition are sorted distinct ones, each moved back by those before it
        shuffled = torch.rand(count, free + self.pieces, generator=generator).argsort(1)[:, : self.pieces]
        count_up = torch.arange(self.pieces)
        start = shuffled.sort(1).values + count_up * (self.stride - 1)
        target, order = self.draw_order(count, generator)
        parameters = self.draw_views(count, generator)
        channel = torch.randint(4, (count, self.pieces), generator=generator)
        small = {"start": start, "order": order, "target": target, "channel": channel}
        return {name: value.to(torch.uint8) for name, value in small.items()} | parameters

    def draw_order(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Classes `[count]`, all equally likely, and an order of each `[count, pieces]`."""
        orders = torch.tensor(self.orders())
        target = torch.randint(len(orders), (count,), generator=generator)
        return target, self.either_way(orders[target], generator)

    def either_way(self, order: Tensor, generator: Generator) -> Tensor:
        """Half of the orders backwards, where that is the same class."""
        if self.direction:
            return order
        backwards = torch.rand(len(order), 1, generator=generator) < 0.5
        return torch.where(backwards, order.flip(1), order)

    def draw_views(self, count: int, generator: Generator) -> Labels:
        """Parameters `[count, pieces, ...]` of the view of each place."""
        shape = (count, self.pieces)
        views = self.views.draw(shape, generator)
        affine = views["affine"][:, :1].repeat(1, self.pieces, 1, 1)
        shift = torch.empty(*shape, 2).uniform_(-2 * self.shift, 2 * self.shift, generator=generator)
        room = (1 - affine[..., :2].abs().sum(-1)).clamp(min=0)  # a crop stays inside the image
        affine[..., 2] = torch.minimum(torch.maximum(affine[..., 2] + shift, -room), room)
        return views | {"affine": affine}

    def table(self, labels: Labels) -> DataFrame:
        classes = self.classes()
        return pd.DataFrame(
            {
                "label": [classes[target] for target in labels["target"].tolist()],
                "order": [" ".join(map(str, order)) for order in labels["order"].tolist()],
                "first_frames": list(labels["start"].numpy()),
            }
        )

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        return comparing.PairwiseHead(self.feature_dim(encoder.dim), self.pieces, self.hidden_dim, len(self.classes()))

    def feature_dim(self, dim: int) -> int:
        return dim

    def feature(self, frames: Tensor) -> Tensor:
        """Embeddings of each piece's frames `[batch, pieces, piece_frames, dim]` -> `[batch, pieces, feature_dim]`"""
        return frames.squeeze(2)

    def render(self, encoder: EncoderModule, clips: Tensor, labels: Labels) -> Tensor:
        """`[batch, frames, channels, side, side]` -> the pieces as shown, `[batch, pieces, piece_frames, channels, side,
        side]`."""
        shown = self.taken(clips, labels["start"].long().gather(1, labels["order"].long()))
        channels = clips.shape[2]
        if self.split_channels and channels == 3:
            mixtures = torch.cat([torch.eye(3), torch.tensor([LIGHT])]).to(clips)
            shown = torch.einsum("bpfchw,bpc->bpfhw", shown, mixtures[labels["channel"].long()]).unsqueeze(3)
        parameters = {
            name: labels[name].repeat_interleave(self.piece_frames, 1).flatten(0, 1)
            for name in ("affine", "color", "blur")
        }
        views = self.views.render(shown.flatten(0, 2), parameters)
        return views.unflatten(0, shown.shape[:3]).expand(-1, -1, -1, channels, -1, -1)

    def taken(self, clips: Tensor, start: Tensor) -> Tensor:
        """Pieces that start at these frames `[batch, pieces]` -> `[batch, pieces, piece_frames, channels, side, side]`"""
        frames = start[..., None] + torch.arange(self.piece_frames, device=start.device)
        return clips[torch.arange(len(clips), device=start.device)[:, None, None], frames]

    def step(self, encoder: Any, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        frames = encoder.embed_frames(views.flatten(1, 2))  # [batch, pieces * piece_frames, dim]
        logits = head(self.feature(frames.unflatten(1, (self.pieces, self.piece_frames)))).float()
        target = labels["target"].long()
        return {
            "loss": F.cross_entropy(logits, target),
            "accuracy": (logits.argmax(1) == target).float().mean(),
            "embedding": frames.flatten(0, 1),
        }

    def picture(self, encoder: EncoderModule, clips: Tensor, labels: Labels) -> Tensor:
        """The pieces in the order of time, then as they are shown, under a bar that is white where they stand in time."""
        before = self.taken(clips, labels["start"].long())
        shown = self.render(encoder, clips, labels).to(before).clone()
        side, order = shown.shape[-1], labels["order"].long()
        edges = torch.arange(side, device=order.device) * self.pieces // side
        lit = edges == order[..., None]  # [batch, pieces, side]
        shown[..., : max(2, side // 16), :] = lit[:, :, None, None, None].to(shown)
        cells = torch.cat([before, shown], 1)  # [batch, 2 * pieces, piece_frames, channels, side, side]
        return cells.permute(0, 1, 3, 4, 2, 5).flatten(4)

    def columns(self) -> list[str]:
        return [*(f"in time {i}" for i in range(self.pieces)), *(f"shown {i}" for i in range(self.pieces))]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(len(self.classes()))
