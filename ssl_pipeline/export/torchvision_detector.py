"""A torchvision detector on the network beside this file, which needs timm and torchvision and nothing else.

    detector(classes) -> torchvision's Faster R-CNN, to be trained on boxes: the network is pretrained, its feature pyramid and
                         heads are fresh

Feature pyramid: Lin et al. 2017, "Feature Pyramid Networks for Object Detection", on maps of 4 pixels a step and coarser.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

HERE = Path(__file__).resolve().parent


def detector(classes: int, dim: int = 256, folder: Path = HERE, **options: Any) -> FasterRCNN:
    """Images (a list of `[channels, height, width]` in 0..1, of any size) and, to train, targets with `boxes` and `labels` from 1
    -> losses; or detections. `options` are torchvision's FasterRCNN's."""
    config = json.loads((folder / "network.json").read_text())
    backbone = Pyramid(network(folder), config["levels"], config["widths"], dim)
    levels = [*config["strides"], 2 * config["strides"][-1]]
    sizes = tuple((4 * stride, 8 * stride) for stride in levels)
    maps = [str(n) for n in range(len(config["levels"]))]
    given = {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(levels)),
        "box_roi_pool": MultiScaleRoIAlign(maps, output_size=7, sampling_ratio=2),
        "image_mean": config["mean"],
        "image_std": config["std"],
        "size_divisible": max(levels),
    }
    return FasterRCNN(backbone, classes + 1, **given | options)


def network(folder: Path = HERE) -> Any:
    """The pretrained timm network."""
    config = json.loads((folder / "network.json").read_text())
    made: Any = timm.create_model(config["name"], num_classes=0, in_chans=config["channels"], **config["options"])
    if stem := config["stem"]:  # for small images: finer, and without pooling
        made.conv1 = nn.Conv2d(config["channels"], **stem, bias=False)
        made.maxpool = nn.Identity()
    made.load_state_dict(load_file(folder / "network.safetensors"), strict=True)
    return made


class Pyramid(nn.Module):
    """images `[batch, channels, height, width]` -> maps `[batch, dim, height / stride, width / stride]`, finest first, and one more
    of half the last one's resolution."""

    def __init__(self, network: Any, levels: list[int], widths: list[int], dim: int) -> None:
        super().__init__()
        self.network, self.levels, self.out_channels = network, levels, dim
        self.neck = FeaturePyramidNetwork(widths, dim, LastLevelMaxPool())

    def maps(self, images: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(images, indices=self.levels, norm=False, intermediates_only=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.neck(OrderedDict((str(n), feature) for n, feature in enumerate(self.maps(images))))


if __name__ == "__main__":
    channels = json.loads((HERE / "network.json").read_text())["channels"]
    print(detector(classes=2).eval()([torch.rand(channels, 128, 160)]))
