"""Stems for small images: ImageNet stems throw away 4 of 28 pixels' worth of detail before the first block sees it.

ResNets get the 3x3 stride-1 convolution without pooling that CIFAR experiments use (Chen et al. 2020, SimCLR, B.9); patch
models get a patch that leaves about eight a side.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_pipeline.encoders.names import fine_patch, patch_size_in_name


def small_stem_options(name: str, image_size: int) -> dict[str, Any]:
    """Arguments for timm.create_model that make the first layer finer, for architectures that have them."""
    if name.startswith("convnext"):
        return {"patch_size": 1 if image_size < 48 else 2}
    if patch_size_in_name(name):
        return {"patch_size": fine_patch(image_size)}
    return {}


def small_stem(backbone: Any, stride: int, keep_weights: bool) -> None:
    """Changes a ResNet's stem in place: this stride instead of 4, no pooling; a 7x7 kernel becomes 3x3 unless its weights
    are kept. Other architectures are left as they are."""
    if not (hasattr(backbone, "conv1") and hasattr(backbone, "maxpool")):
        return
    first = backbone.conv1 if isinstance(backbone.conv1, nn.Conv2d) else backbone.conv1[0]
    if backbone.conv1 is first and not keep_weights:
        backbone.conv1 = nn.Conv2d(
            first.in_channels, first.out_channels, 3, stride=stride, padding=1, bias=first.bias is not None
        )
    first.stride = (stride, stride)
    backbone.maxpool = nn.Identity()
