"""Object detection: does a detector that starts from the encoder find more than one that starts from random weights?

The same detector (`detector.py`), steps, batches and learning rate for both; with the encoder fine-tuned, the random one is
supervised training from scratch. Average precision as COCO counts it (Lin et al. 2014; pycocotools through torchmetrics): the
mean over overlaps of 0.5 to 0.95, and at 0.5 and 0.75, each the mean over classes. Numbers are on the test split, of the last
step's weights; nothing is chosen, on whatever split.

Batch norms of either encoder measure their statistics on training crops first: those of a fresh one would stand at 0 and 1.
Ignored regions are neither trained on nor counted; their surroundings are background.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import settings_in
from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Cell, Metrics, Result, t_half
from ssl_pipeline.evaluate.settings_detection import MEASURES, Detection
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import ImageEncoder as EncoderSettings
    from ssl_pipeline.recipe import Recipe

LONGEST = 4
"""Times its shorter side, an image's longer one may be before the whole is made smaller."""
VISIBLE = 0.3
"""Share of a box that a crop must hold."""
SMALLEST = 2.0
"""Pixels of a box's side in a crop."""
WEIGHT_DECAY = 0.01
NORM_CROPS = 256

Boxes = dict[str, Tensor]
"""`boxes [n, 4]` as left, top, right, bottom in pixels, `labels [n]` from 1; of detections also `scores`, of truths `iscrowd`."""


def own(recipe: Recipe, pack: Pack, encoder: Any, features: Any, folder: Path, settings: Detection) -> Result:
    """The detector on this encoder, trained once for each seed."""
    train, test, names = splits_of(pack, encoder.channels)
    made_by: Any = settings_in(folder)
    scores, found, truth = [], [], truths(test, settings)
    for seed in range(settings.seeds):
        found.append(detections(encoder, made_by, train, test, len(names), settings, seed, recipe.pretrain.device))
        scores.append(average_precision(found[-1], truth, names))
    shown = shown_rows(test)
    images = [test.at(row, settings.image_size)[0] for row in shown]
    true, first = [truth[row] for row in shown], [found[0][row] for row in shown]
    per_class = {name: interval([score[f"class {name}"] for score in scores]) for name in test.names}
    return Result(
        cells(scores, settings),
        {"detections": ("detections", images, true, first, names), "classes": ("bars", per_class, "average precision")},
        facts={"per_class": per_class, "test_samples": len(test), "test_objects": test.count},
    )


def baselines(recipe: Recipe, pack: Pack, settings: Detection, step: Callable[[str], None]) -> dict[str, Metrics]:
    """A fresh encoder under the same detector and budget; where encoders are frozen, also one that is trained from scratch."""

    train, test, names = splits_of(pack, pack.facts["channels"])
    made_by: Any = recipe.encoder
    truth = truths(test, settings)

    def measured(settings: Detection) -> Metrics:
        scores = []
        for seed in range(settings.seeds):
            step(f"random encoder, {settings.probe.replace('_', '-')}, training {seed + 1} of {settings.seeds}")
            encoder = fresh_encoder(recipe, pack, seed)
            found = detections(encoder, made_by, train, test, len(names), settings, seed, recipe.pretrain.device)
            scores.append(average_precision(found, truth, names))
        return cells(scores, settings)

    methods = {"random encoder": measured(settings)}
    if settings.frozen:
        methods["supervised"] = measured(settings.model_copy(update={"frozen": False}))
    return methods


class Annotated:
    """A split's images, as they were before they were packed, and the objects in them."""

    def __init__(self, pack: Pack, split: str, channels: int) -> None:
        path = pack.path / f"{split}.objects.parquet"
        if not path.exists():
            raise PipelineError(
                "the dataset has no boxes, which detection needs: name a source of kind coco or voc, or leave detection out"
            )
        table = pq.read_table(path)
        self.path, self.channels = pack.path / f"{split}.originals", channels
        self.ends = table["end"].to_pylist()
        self.objects: list[list[dict[str, Any]]] = table["objects"].to_pylist()
        self.names = sorted({one["label"] for objects in self.objects for one in objects if not one["ignored"]})
        self.count = sum(not one["ignored"] for objects in self.objects for one in objects)
        self.code: dict[str, int] = {}
        """Of a class: its number from 1."""

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def file(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def at(self, row: int, shorter: int) -> tuple[np.ndarray, Boxes]:
        """uint8 `[channels, height, width]`, its shorter side resized to `shorter`, and its objects in these pixels."""
        image = decode(self.file[self.ends[row - 1] if row else 0 : self.ends[row]], self.channels)
        scale = min(shorter / min(image.size), LONGEST * shorter / max(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        factor = torch.tensor([width / image.width, height / image.height] * 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
        known = [one for one in self.objects[row] if one["label"] in self.code]
        boxes = torch.tensor([one["box"] for one in known], dtype=torch.float32).reshape(-1, 4) * factor
        labels = torch.tensor([self.code[one["label"]] for one in known], dtype=torch.int64)
        return pixels, {
            "boxes": boxes, "labels": labels, "iscrowd": torch.tensor([one["ignored"] for one in known], dtype=torch.int64)
        }  # fmt: skip


def splits_of(pack: Pack, channels: int) -> tuple[Annotated, Annotated, list[str]]:
    """Training and test split, and the names of all classes. Raises PipelineError where there is nothing to find."""
    found = {split: Annotated(pack, split, channels) for split in SPLITS}
    names = sorted({name for split in found.values() for name in split.names})
    for split in ("train", "test"):
        if not found[split].count:
            raise PipelineError(f"no objects in the {split} split: annotate more images or leave detection out")
        found[split].code = {name: number for number, name in enumerate(names, 1)}
    return found["train"], found["test"], names


def truths(test: Annotated, settings: Detection) -> list[Boxes]:
    """Of each image, in pixels of the size that the detector sees."""
    return [test.at(row, settings.image_size)[1] for row in range(len(test))]


def detections(
    encoder: Any, made_by: EncoderSettings, train: Annotated, test: Annotated, classes: int, settings: Detection, seed: int,
    device: str = "auto",
) -> list[Boxes]:  # fmt: skip
    """What a detector finds in each test image, once it was trained on the training split."""
    from ssl_pipeline.evaluate.detector import detector
    from ssl_pipeline.pretrain.compute import pick_device

    with torch.random.fork_rng():  # torchvision draws its samples of proposals from the global generator
        torch.manual_seed(seed)
        model = detector(encoder, made_by, classes, settings).to(pick_device(device))
        with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
            measure_norms(model, crops(train, settings, np.random.default_rng(seed), pool))
            train_detector(model, crops(train, settings, np.random.default_rng(seed), pool), settings)
        return detect(model, test, settings)


Batch = tuple[list[Tensor], list[Boxes]]
"""Images in 0..1 and their objects."""


def crops(
    train: Annotated, settings: Detection, chance: np.random.Generator, pool: ThreadPoolExecutor
) -> Iterator[Batch]:
    """Batches of square crops without end: every image once an epoch, in a new order."""
    waiting: list[int] = []
    side = settings.image_size
    while True:
        while len(waiting) < settings.batch_size:
            waiting += chance.permutation(len(train)).tolist()
        rows, waiting = waiting[: settings.batch_size], waiting[settings.batch_size :]
        places = chance.random((len(rows), 3)).tolist()
        read = list(pool.map(lambda row: train.at(row, side), rows))
        taken = [crop(*one, side, at, settings.flip) for one, at in zip(read, places, strict=True)]
        yield [image for image, _ in taken], [objects for _, objects in taken]


def crop(pixels: np.ndarray, objects: Boxes, side: int, chance: Sequence[float], flip: bool) -> tuple[Tensor, Boxes]:
    """A square of `side` pixels (or less, of an image that is smaller), and the objects of which it holds enough. `chance`, three
    numbers in 0..1, says how far across and down it lies, and mirrors it below one half."""
    across, down, coin = chance
    _, height, width = pixels.shape
    left, top = (int(place * (max(0, length - side) + 1)) for place, length in ((across, width), (down, height)))
    image = torch.from_numpy(np.ascontiguousarray(pixels[:, top : top + side, left : left + side])).float() / 255
    high, wide = image.shape[1:]
    whole = objects["boxes"] - torch.tensor([left, top, left, top])
    boxes = torch.stack([whole[:, 0::2].clamp(0, wide), whole[:, 1::2].clamp(0, high)], 2).flatten(1)
    sides, full = boxes[:, 2:] - boxes[:, :2], whole[:, 2:] - whole[:, :2]
    kept = (sides.min(1).values >= SMALLEST) & (sides.prod(1) >= VISIBLE * full.prod(1)) & (objects["iscrowd"] == 0)
    if flip and coin < 0.5:
        image, boxes = image.flip(2), torch.stack([wide - boxes[:, 2], boxes[:, 1], wide - boxes[:, 0], boxes[:, 3]], 1)
    return image, {"boxes": boxes[kept], "labels": objects["labels"][kept]}


@torch.no_grad()
def measure_norms(model: Any, batches: Iterator[Batch]) -> None:
    """Gives the network's batch norms the mean statistics of some training crops."""
    network = model.backbone.network
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    network.train()
    seen = 0
    while seen < NORM_CROPS:
        images, _ = next(batches)
        model.backbone.maps(model.transform([image.to(device_of(model)) for image in images])[0].tensors)
        seen += len(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def train_detector(model: Any, batches: Iterator[Batch], settings: Detection) -> None:
    from ssl_pipeline.pretrain.loop import schedule

    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    device = device_of(model)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps // 10, settings.steps)
        images, targets = next(batches)
        targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
        loss = sum(model([image.to(device) for image in images], targets).values())
        if not torch.isfinite(loss):
            raise PipelineError(f"detection: the loss is not finite at step {step}: set its learning_rate lower")
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def detect(model: Any, test: Annotated, settings: Detection) -> list[Boxes]:
    model.eval()
    found: list[Boxes] = []
    for at in range(0, len(test), settings.batch_size):
        rows = range(at, min(at + settings.batch_size, len(test)))
        images = [torch.from_numpy(np.ascontiguousarray(test.at(row, settings.image_size)[0])) for row in rows]
        found += model([image.to(device_of(model)).float() / 255 for image in images])
    return [{name: value.cpu() for name, value in one.items()} for one in found]


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def average_precision(found: list[Boxes], true: list[Boxes], names: list[str]) -> dict[str, float]:
    """`ap`, `ap50`, `ap75`, and `class NAME` (over all overlaps) of each class that there is in the truth."""
    from torchmetrics.detection import MeanAveragePrecision

    # the metric's own thresholds are rounded to 32 bits, which a recall of 3/5 does not reach
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        class_metrics=True,
    )
    metric.warn_on_many_detections = False
    metric.update(found, true)
    result = metric.compute()
    scores = {measure: float(result[key]) for measure, key in zip(MEASURES, ("map", "map_50", "map_75"), strict=True)}
    codes, values = result["classes"].reshape(-1).tolist(), result["map_per_class"].reshape(-1).tolist()
    return scores | {f"class {names[code - 1]}": ap for code, ap in zip(codes, values, strict=True) if ap >= 0}


def cells(scores: list[dict[str, float]], settings: Detection) -> Metrics:
    return {
        name: interval([score[measure] for score in scores])
        for name, measure in zip(settings.metrics(), MEASURES, strict=True)
    }


def interval(values: list[float]) -> Cell:
    """Mean and 95% interval by Student's t over trainings."""
    mean, half = float(np.mean(values)), t_half(values)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def shown_rows(test: Annotated, most: int = 8) -> list[int]:
    """Test images with objects, drawn at random."""
    rows = np.flatnonzero([bool(objects) for objects in test.objects])
    return np.sort(np.random.default_rng(0).permutation(rows)[:most]).tolist()
