"""Does an encoder know the order of frames, or does a single frame give its place away?

A task on order is meant to be solved by comparing frames. Fades, the picture's quality between key frames, a shape that only ever
grows: where such a trace tells from one frame alone when it was taken, a network needs no comparison (Misra et al. 2016,
section 3.1, and Lee et al. 2017, section 3.3, name several). So the same frozen embeddings are asked twice: a head that compares
all pieces says the order, and a head that sees one piece alone says its place, from which the order is put together. The second
must stay at chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_pipeline.evaluate.classification import interval
from ssl_pipeline.evaluate.result import Cell
from ssl_pipeline.pretext.joint import mlp
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.task import Labels

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_video import VideoEncoder
    from ssl_pipeline.pretext.ordering import Ordering

BATCH = 64


@dataclass(frozen=True)
class Asked:
    """Frozen features of clips and what was asked of them."""

    features: Tensor
    """`[clips, pieces, feature_dim]`, in the order of time."""
    orders: Tensor
    """`[clips, questions]`, numbers of the orders."""


def probes(
    task: Ordering,
    encoder: Any,
    settings: VideoEncoder,
    train: np.ndarray,
    test: np.ndarray,
    draws: int = 4,
    steps: int = 400,
    seed: int = 0,
) -> dict[str, Cell]:
    """Accuracy in the task on the test clips, with heads that were trained on the train clips for it.

    `train` and `test` are stored clips, uint8 `[n, frames, channels, side, side]`, the pack's training rows. Returns `mean`,
    `low` and `high` (95%, over the draws of labels and the finite test split) by the name of the probe: `order`, which
    compares; `single frame`, which does not; and `chance`. The encoder, trained or not, is not changed; it is run in
    evaluation mode, on its device.
    """
    was_training = encoder.training
    known = asked(task, encoder, settings, train, seed, "train", 2 * draws)
    fresh = [asked(task, encoder, settings, test, seed, f"test {number}", 1) for number in range(draws)]
    encoder.train(was_training)
    mean, deviation = known.features.mean((0, 1)), known.features.std((0, 1)).clamp(min=1e-6)
    known, *fresh = (Asked((one.features - mean) / deviation, one.orders) for one in (known, *fresh))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head, place = task.build_head(encoder), ByItself(known.features.shape[2], task.hidden_dim, task.pieces)
        fit(head, known, lambda part: order_loss(head, part), steps, seed)
        fit(place, known, lambda part: place_loss(place, part), steps, seed)
    chance = 1 / len(task.classes())
    return {
        "order": interval([order_accuracy(head, part) for part in fresh], len(test)),
        "single frame": interval([place_accuracy(place, head, part) for part in fresh], len(test)),
        "chance": {"mean": chance, "low": chance, "high": chance},
    }


class ByItself(nn.Module):
    """features `[clips, pieces, dim]` -> logits `[clips, pieces, places]`: of each piece alone, when it was taken."""

    def __init__(self, dim: int, hidden_dim: int, places: int) -> None:
        super().__init__()
        self.layers = mlp(dim, hidden_dim, places)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flatten(0, 1)).unflatten(0, features.shape[:2])


@torch.no_grad()
def asked(
    task: Ordering, encoder: Any, settings: VideoEncoder, clips: np.ndarray, seed: int, place: str, draws: int
) -> Asked:
    """Features of the task's views of every clip, `draws` times with other pieces and views."""
    features, orders = [], []
    encoder.eval()
    for number in range(draws):
        labels = task.draw(len(clips), settings, generator(seed, "order probes", place, number))
        for at in range(0, len(clips), BATCH):
            part: Labels = {name: value[at : at + BATCH].to(encoder.device) for name, value in labels.items()}
            batch = {"clip": torch.from_numpy(np.array(clips[at : at + BATCH])).to(encoder.device)}
            views = task.render(encoder, encoder.read(batch), part)
            frames = encoder.embed_frames(views.flatten(1, 2)).float()
            features.append(task.feature(frames.unflatten(1, (task.pieces, task.piece_frames))).cpu())
        orders.append(labels["asked"].long())
    return Asked(torch.cat(features), torch.cat(orders))


def fit(head: nn.Module, known: Asked, loss_of: Any, steps: int, seed: int) -> None:
    """AdamW with half a cosine, the same for both heads: neither is tuned."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = generator(seed, "order probes", "batches")
    head.train()
    for _ in range(steps):
        chosen = torch.randint(len(known.features), (min(128, len(known.features)),), generator=order)
        loss_of(Asked(known.features[chosen], known.orders[chosen])).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    head.eval()


def order_loss(head: Any, part: Asked) -> Tensor:
    return F.cross_entropy(head(part.features, part.orders).flatten(0, 1), head.class_of[part.orders].flatten())


def place_loss(place: nn.Module, part: Asked) -> Tensor:
    """Each piece must say when in the clip it was taken: first, second, ..."""
    logits = place(part.features)  # [clips, pieces, pieces]
    return F.cross_entropy(logits.flatten(0, 1), torch.arange(logits.shape[1]).repeat(len(logits)))


@torch.no_grad()
def order_accuracy(head: Any, part: Asked) -> float:
    right = head(part.features, part.orders).argmax(2) == head.class_of[part.orders]
    return float(right.float().mean())


@torch.no_grad()
def place_accuracy(place: nn.Module, head: Any, part: Asked) -> float:
    """The likeliest class where the pieces, shown in each of the orders asked, each say their place independently."""
    said = place(part.features).log_softmax(2)  # [clips, pieces, place in time]
    shown = said[
        torch.arange(len(said))[:, None, None], head.orders[part.orders]
    ]  # [clips, questions, place shown, time]
    # how likely each order is: the sum over places of what the piece there says of that order's time
    every = torch.stack([shown[:, :, range(shown.shape[2]), order].sum(2) for order in head.orders.tolist()], 2)
    classes = int(head.class_of.max()) + 1
    likely = torch.stack([every[:, :, head.class_of == number].logsumexp(2) for number in range(classes)], 2)
    # a class of more orders is no likelier for that
    likely = likely - torch.bincount(head.class_of).log()
    return float((likely.argmax(2) == head.class_of[part.orders]).float().mean())
