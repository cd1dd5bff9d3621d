"""What segmentation from frozen features must beat: random features, the pixels themselves, the commonest class; and what the same
network reaches where all of it is trained on the same masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pipeline.evaluate.baselines import BATCH_SIZE, LEARNING_RATE
from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.segmentation import Answers, Data, confusions, counted, probed, rows_of
from ssl_pipeline.evaluate.segmentation_probe import Head, Subset, enlarged, of_encoder
from ssl_pipeline.evaluate.settings_segmentation import Segmentation
from ssl_pipeline.ingest.image_masks import IGNORED
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretrain.compute import mixed_precision, pick_device
from ssl_pipeline.pretrain.loop import schedule

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.recipe import Recipe

FINEST = 16
"""Numbers a side that a patch of raw pixels is averaged to, at most."""


def all_baselines(
    recipe: Recipe, pack: Pack, data: Data, classes: int, settings: Segmentation, step: Callable[[str], None]
) -> dict[str, Answers]:
    """By name; `step` hears of each before it starts."""
    device = pick_device(recipe.pretrain.device)
    draws = range(settings.draws)
    subsets = [(count, draw) for count in settings.images for draw in draws]
    once = [subset for subset in subsets if subset[0] != "all" or subset[1] == 0]
    found: dict[str, Answers] = {"random encoder": {}}
    for draw in draws:
        step(f"random encoder {draw + 1} of {settings.draws}")
        locate = of_encoder(fresh_encoder(recipe, pack, draw).to(device), recipe, settings.stage)
        mine = [subset for subset in subsets if subset[1] == draw]
        found["random encoder"] |= probed(locate, data, classes, mine, settings)[0]
    size = locate(np.array(data["test"].images[:1])).shape[2:]
    step("raw pixels of each place")
    found["raw patches"] = probed(lambda images: patches(images, size), data, classes, once, settings)[0]
    step("the colour of each pixel")
    found["colour of the pixel"] = probed(
        lambda images: patches(images, images.shape[2:]), data, classes, once, settings
    )[0]
    step("the commonest class")
    found["commonest class"] = {subset: commonest(data, classes, subset) for subset in once}
    if settings.supervised_steps:
        found["supervised"] = {}
        for subset in subsets:
            step(f"supervised, {subset[0]} images, draw {subset[1] + 1} of {settings.draws}")
            found["supervised"][subset] = supervised(recipe, pack, data, classes, subset, settings)
    return found


def patches(images: np.ndarray, size: Any) -> Tensor:
    """uint8 `[batch, channels, side, side]` -> float32 `[batch, dim, *size]`: the pixels under each place; their mean colour where
    places do not divide the side."""
    pixels, side = torch.from_numpy(images).float() / 255, images.shape[-1]
    if side % size[0] or side % size[1] or size[0] != size[1]:
        return F.adaptive_avg_pool2d(pixels, size)
    if side // size[0] > FINEST:
        pixels = F.adaptive_avg_pool2d(pixels, FINEST * size[0])
    return F.pixel_unshuffle(pixels, pixels.shape[-1] // size[0])


def commonest(data: Data, classes: int, subset: Subset) -> np.ndarray:
    """Every pixel said to be of the class that most pixels of the training images have."""
    masks, test = data["train"].masks, data["test"].masks
    counts = np.bincount(np.array(masks[rows_of(subset, len(masks))]).ravel(), minlength=IGNORED + 1)[:classes]
    return confusions(np.full(test.shape, counts.argmax(), np.uint8), np.array(test), classes)


class Segmenter(nn.Module):
    """An encoder up to a stage, and a linear layer on each place of it; logits `[batch, classes, side, side]`."""

    def __init__(self, encoder: Any, stage: int, dim: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.stage = encoder, stage
        self.head = nn.Conv2d(dim, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return enlarged(self.head(self.encoder.maps(images, self.stage)).float(), images.shape[-1])


def supervised(
    recipe: Recipe, pack: Pack, data: Data, classes: int, subset: Subset, settings: Segmentation
) -> np.ndarray:
    """The same network from scratch: AdamW, warm-up and cosine, the last step's weights; cross-entropy of every pixel."""
    device, (count, draw) = pick_device(recipe.pretrain.device), subset
    autocast = mixed_precision(recipe.pretrain, device)
    encoder, train = fresh_encoder(recipe, pack, draw).to(device), data["train"]
    dim = of_encoder(encoder, recipe, settings.stage)(np.array(train.images[:1])).shape[1]
    chance = generator(draw, "segmentation", str(count))
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        model = Segmenter(encoder, settings.stage, dim, classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
        rows = rows_of(subset, len(train.masks))
        model.train()
        for step in range(settings.supervised_steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * schedule(step, settings.supervised_steps // 10, settings.supervised_steps)
            batch = rows[torch.randint(len(rows), (min(BATCH_SIZE, len(rows)),), generator=chance).numpy()]
            images, truth = (torch.from_numpy(np.array(a[batch])).to(device) for a in (train.images, train.masks))
            mirrored = torch.rand(len(batch), generator=chance).to(device) < (0.5 if settings.flip else 0.0)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            truth = torch.where(mirrored[:, None, None], truth.flip(2), truth).long()
            if (truth == IGNORED).all():
                continue
            with autocast():
                logits = model(encoder.read({"image": images}))
            F.cross_entropy(logits, truth, ignore_index=IGNORED).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    head = Head(model.head.weight.detach()[:, :, 0, 0], model.head.bias.detach())  # type: ignore[union-attr]
    return counted(of_encoder(encoder, recipe, settings.stage), data["test"], classes, [head])[0]
