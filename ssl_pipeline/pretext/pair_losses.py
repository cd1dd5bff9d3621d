"""Losses on a batch of pairs of embeddings, image and text, that compare each with all others of the batch.

Two captions that read the same are no reason to push their images apart: such pairs, by `key`, are left out of the sums,
neither right nor wrong. In fp32 whatever the autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pipeline.pretext.gather import gather, position

FACTOR = 6364136223846793005
"""Knuth's multiplier of a linear congruential generator modulo 2^64."""


def key_of(tokens: Tensor) -> Tensor:
    """`[n, length]` -> int64 `[n]`, equal for equal rows and, but for one chance in 10^19, for no others."""
    powers = torch.full((tokens.shape[1],), FACTOR, dtype=torch.int64, device=tokens.device).cumprod(0)  # wraps around
    return ((tokens.long() + 1) * powers).sum(1)


def info_nce(image: Tensor, text: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's loss: the mean of -log softmax over texts at an image's own and over images at a text's own, of cosine * scale
    (Radford et al. 2021, figure 3). `image`, `text [n, dim]`, `key [n]`; returns loss and accuracy, image to text.

    Where processes share a batch, each averages over its own rows against those of all."""
    with torch.autocast(image.device.type, enabled=False):
        image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        own, same = targets(key)
        to_text = (scale.float() * image @ gather(text).T).masked_fill(same, float("-inf"))  # [n, world * n]
        to_image = (scale.float() * text @ gather(image).T).masked_fill(same, float("-inf"))
        loss = (F.cross_entropy(to_text, own) + F.cross_entropy(to_image, own)) / 2
        return loss, (to_text.argmax(1) == own).float().mean()


def sigmoid_pairs(image: Tensor, text: Tensor, key: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """SigLIP's loss: every pair by itself is right or wrong, -sum log sigmoid(+-(cosine * scale + bias)) over the batch's
    images (Zhai et al. 2023, equation 1). Arguments and results as in `info_nce`."""
    with torch.autocast(image.device.type, enabled=False):
        image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        own, same = targets(key)
        logits = scale.float() * image @ gather(text).T + bias.float()  # [n, world * n]
        wrong = F.softplus(logits).masked_fill(same, 0).sum(1)  # all pairs as if they were wrong ones
        right = logits.gather(1, own[:, None])[:, 0]
        loss = (wrong - right).mean()  # softplus(x) - x = softplus(-x)
        return loss, (logits.masked_fill(same, float("-inf")).argmax(1) == own).float().mean()


def targets(key: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the whole batch each row's own partner stands `[n]`, and which others read the same `[n, world * n]`."""
    everyone, n = gather(key), len(key)
    own = torch.arange(n, device=key.device) + (n * position()[0] if len(everyone) > n else 0)
    same = (key[:, None] == everyone).scatter(1, own[:, None], False)
    return own, same
