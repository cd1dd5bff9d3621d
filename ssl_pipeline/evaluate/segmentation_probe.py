"""The linear layer of segmentation: features of places in, logits of classes out.

A place stands for the pixels under it: it counts once, shared among its pixels' classes, which is the cross-entropy of all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ssl_pipeline.pretrain.compute import mixed_precision

if TYPE_CHECKING:
    from ssl_pipeline.evaluate.settings_segmentation import Segmentation
    from ssl_pipeline.pretext.pack import Stored
    from ssl_pipeline.recipe import Recipe

PENALTIES = (1e-4, 1e-2, 1.0)
"""scikit-learn's C, the inverse of the L2 penalty, strongest first."""
NEVER = -1e4
"""The logit of a class that was not seen."""
BATCH = 32

Locate = Callable[[np.ndarray], Tensor]
"""uint8 `[batch, channels, side, side]` -> float32 `[batch, dim, height, width]`: features of every place"""
Subset = tuple[Any, int]
"""How many training images, or all, and which draw of them."""


@dataclass(frozen=True)
class Head:
    """`weight [classes, dim]`, `bias [classes]`"""

    weight: Tensor
    bias: Tensor

    def classes_of(self, features: Tensor, side: int) -> np.ndarray:
        """`[batch, dim, height, width]` -> uint8 `[batch, side, side]`"""
        weight, bias = self.weight.to(features.device), self.bias.to(features.device)
        logits = F.conv2d(features, weight[:, :, None, None], bias)
        return enlarged(logits, side).argmax(1).to(torch.uint8).cpu().numpy()


def enlarged(logits: Tensor, side: int) -> Tensor:
    """`[batch, classes, height, width]` -> `[batch, classes, side, side]`"""
    return F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)


def of_encoder(encoder: Any, recipe: Recipe, stage: int) -> Locate:
    """A frozen encoder's features, in the precision that it was trained in."""
    autocast = mixed_precision(recipe.pretrain, encoder.device)

    @torch.inference_mode()
    def locate(images: np.ndarray) -> Tensor:
        encoder.eval()
        with autocast():
            return encoder.maps(encoder.read({"image": torch.from_numpy(images).to(encoder.device)}), stage).float()

    return locate


def predicted(locate: Locate, head: Head, images: np.ndarray) -> np.ndarray:
    """uint8 `[n, side, side]`"""
    return head.classes_of(locate(images), images.shape[-1])


def fitted(
    locate: Locate, images: Stored, masks: np.ndarray, rows: np.ndarray, classes: int, settings: Segmentation, draw: int
) -> list[Head]:
    """One for each penalty, on these training images."""
    x, shares = places(locate, images, masks, rows, classes, settings.locations, draw)
    scaler = StandardScaler().fit(x)
    place, number = np.nonzero(shares)
    x, weight = scaler.transform(x)[place], shares[place, number]
    seen = np.unique(number)
    heads = []
    model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
    for penalty in PENALTIES:
        coefficients, bias = np.zeros((classes, x.shape[1])), np.full(classes, NEVER)
        bias[seen] = 0.0
        if len(seen) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # an early stop is one more regulariser here
                model.set_params(C=penalty).fit(x, number, weight)
            told = seen if len(seen) > 2 else seen[1:]  # of two, one logit alone, the other's is 0
            coefficients[told], bias[told] = model.coef_, model.intercept_
        coefficients /= scaler.scale_
        bias = bias - coefficients @ scaler.mean_
        heads.append(Head(torch.from_numpy(coefficients).float(), torch.from_numpy(bias).float()))
    return heads


def places(
    locate: Locate, images: Stored, masks: np.ndarray, rows: np.ndarray, classes: int, most: int, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features `[places, dim]` of at most so many places with a class, as many of each image, and the share of each class in their
    pixels `[places, classes]`."""
    chance = np.random.default_rng(draw)
    found, shared = [], []
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        features = locate(np.array(images[some]))
        shares = shares_of(torch.from_numpy(np.array(masks[some])), classes, features.shape[2:])
        for mine, theirs in zip(features.flatten(2).mT.cpu().numpy(), shares.flatten(2).mT.numpy(), strict=True):
            chosen = chance.permutation(np.flatnonzero(theirs.any(1)))[: max(1, most // len(rows))]
            found.append(mine[chosen])
            shared.append(theirs[chosen])
    return np.concatenate(found), np.concatenate(shared)


def shares_of(masks: Tensor, classes: int, size: Any) -> Tensor:
    """uint8 `[batch, side, side]` -> float32 `[batch, classes, height, width]`: how much of a place each class takes; what has no
    class takes nothing."""
    hot = torch.stack([masks == number for number in range(classes)], 1).float()
    return F.adaptive_avg_pool2d(hot, size)
