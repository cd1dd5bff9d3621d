"""The field's simple classic for each kind of data: what a person without a network would try first, on the same labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ssl_pipeline.evaluate.classification import Features, Labels, probe_methods
from ssl_pipeline.evaluate.settings import Classification
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Pack, Stored

Classic = Callable[[Pack, Labels, Classification], list[dict[str, Any]]]
"""-> rows (method, probe, shots, draw, accuracy)"""


def images(pack: Pack, labels: Labels, settings: Classification) -> list[dict[str, Any]]:
    """Raw pixels, by the same probes as the encoders' features."""
    return probe_methods("raw pixels", [raw_pixels(pack)], labels, settings)[0]


def raw_pixels(pack: Pack) -> Features:
    """The pixels themselves, of larger images averaged down to 32 pixels a side."""
    stored = {split: pack.samples(split)["image"] for split in SPLITS}
    return {split: np.concatenate([small(part) for part in parts(array)]) for split, array in stored.items()}


def small(images: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(np.array(images)).float() / 255
    return (F.interpolate(pixels, (32, 32), mode="area") if pixels.shape[-1] > 32 else pixels).flatten(1).numpy()


def parts(array: Stored) -> Iterator[np.ndarray]:
    return (array[at : at + 1024] for at in range(0, len(array), 1024))


CLASSICS: dict[str, Classic] = {"image": images}
"""By the kind of encoder."""
