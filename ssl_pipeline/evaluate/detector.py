"""A detector on an encoder's own network.

    stages of a network        feature pyramid (Lin et al. 2017, "Feature Pyramid Networks for Object Detection")
    a ViT, of one resolution   simple feature pyramid from its last map (Li et al. 2022, "Exploring Plain Vision Transformer
                               Backbones for Object Detection", section 3); attention stays global, as for small images it may
    faster_rcnn                region proposals and a two-layer box head (Ren et al. 2015), torchvision's, with fewer proposals
    retinanet                  anchors and a focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection"), torchvision's
    fcos                       no anchors: each place says how far its object reaches (Tian et al. 2019), torchvision's

The network is the encoder's, not another one with its weights copied by name; a ViT alone is made anew, to take images of any
size, and refuses to load unless every weight finds its place.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ssl_pipeline.encoders.image import ImageEncoder, timm_backbone
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import ImageEncoder as EncoderSettings
    from ssl_pipeline.evaluate.settings_detection import Detection

FINEST = 4
"""Pixels a step of the finest level, at least."""
MOST_LEVELS = 4


def detector(encoder: ImageEncoder, made_by: EncoderSettings, classes: int, settings: Detection) -> Any:
    """Images (a list of `[channels, height, width]` in 0..1, of any size) and, to train, targets with `boxes` and `labels` from 1
    -> losses; or detections, in pixels of what came in. The encoder itself is not touched.

    Raises PipelineError for a network without maps of features, or with steps that are no powers of two."""
    backbone = Pyramid(network_of(encoder, made_by), encoder.channels, settings.pyramid_dim, settings.frozen)
    levels = [*backbone.strides, 2 * backbone.strides[-1]]
    model = HEADS[settings.head](backbone, levels, classes, settings.pyramid_dim)
    mean, std = (buffer.flatten().tolist() for buffer in (encoder.mean, encoder.std))
    model.transform = Normalized(1, 1, mean, std, size_divisible=max(levels))
    return model


def faster_rcnn(backbone: Pyramid, levels: list[int], classes: int, dim: int) -> FasterRCNN:
    """`levels`: pixels a step of each map, the extra one included."""
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(
            tuple((4 * stride, 8 * stride) for stride in levels), ((0.5, 1.0, 2.0),) * len(levels)
        ),
        rpn_pre_nms_top_n_train=600, rpn_pre_nms_top_n_test=400, rpn_post_nms_top_n_train=200, rpn_post_nms_top_n_test=200,
        box_roi_pool=MultiScaleRoIAlign([str(n) for n in range(len(backbone.strides))], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(dim * 7**2, 4 * dim), box_predictor=FastRCNNPredictor(4 * dim, classes + 1),
        box_batch_size_per_image=64, box_score_thresh=0.01,
    )  # fmt: skip


def retinanet(backbone: Pyramid, levels: list[int], classes: int, dim: int) -> RetinaNet:
    octave = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    sizes = tuple(tuple(round(4 * stride * scale) for scale in octave) for stride in levels)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(levels))
    return RetinaNet(backbone, classes + 1, anchor_generator=anchors, score_thresh=0.01, topk_candidates=400)


def fcos(backbone: Pyramid, levels: list[int], classes: int, dim: int) -> FCOS:
    anchors = AnchorGenerator(tuple((stride,) for stride in levels), ((1.0,),) * len(levels))
    return FCOS(backbone, classes + 1, anchor_generator=anchors, score_thresh=0.01, topk_candidates=400)


HEADS = {"faster_rcnn": faster_rcnn, "retinanet": retinanet, "fcos": fcos}


def network_of(encoder: ImageEncoder, made_by: EncoderSettings) -> nn.Module:
    """A copy of the encoder's network that takes images of any size."""
    architecture = timm.get_pretrained_cfg(made_by.backbone)
    if not (architecture and architecture.fixed_input_size):
        return deepcopy(encoder.backbone)
    anew = made_by.without_weights().model_copy(update={"options": made_by.options | {"dynamic_img_size": True}})
    network = timm_backbone(anew, encoder.channels, encoder.image_size)
    network.load_state_dict(encoder.backbone.state_dict(), strict=True)
    return network


class Normalized(GeneralizedRCNNTransform):
    """Normalises and pads; images come in the size that is wanted."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class Pyramid(nn.Module):
    """images `[batch, channels, height, width]` -> maps `[batch, dim, height / stride, width / stride]`, finest first, named
    "0", "1", ..., and one more of half the last one's resolution, "pool"."""

    def __init__(self, network: nn.Module, channels: int, dim: int, frozen: bool) -> None:
        super().__init__()
        self.network: Any = network
        self.frozen = frozen
        self.levels: list[int] | None
        self.out_channels = dim
        self.plain, self.levels = False, None
        maps = self.probed(channels)
        strides = [self.side // feature.shape[-1] for feature in maps]
        last = {stride: index for index, stride in enumerate(strides) if stride >= FINEST or stride == strides[-1]}
        if any(stride & (stride - 1) for stride in last):
            raise PipelineError(
                f"detection: the network's maps are {sorted(last)} pixels a step: choose a backbone (or "
                "options.patch_size) with powers of two"
            )
        self.plain = len(set(strides)) == 1
        self.levels = list(last.values())[-MOST_LEVELS:]
        widths = [maps[level].shape[1] for level in self.levels or ()]
        self.neck: Any
        if self.plain:
            self.neck = SimpleFeaturePyramid(widths[-1], dim, strides[-1])
            self.strides = self.neck.strides
        else:
            self.neck = FeaturePyramidNetwork(widths, dim, LastLevelMaxPool())
            self.strides = list(last)[-MOST_LEVELS:]
        for parameter in self.network.parameters():
            parameter.requires_grad_(not frozen)

    def probed(self, channels: int) -> list[Tensor]:
        """The network's maps of a square of `side` pixels."""
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        self.side = 4 * patch[0] if patch else 128
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                return self.maps(torch.zeros(1, channels, self.side, self.side))
        except (AttributeError, TypeError, RuntimeError, AssertionError) as error:
            raise PipelineError(
                f"detection: {type(self.network).__name__} gives no maps of features in between ({error}): choose a ResNet, a "
                "ConvNeXt or a ViT as encoder.backbone"
            ) from error
        finally:
            self.network.train(was_training)

    def maps(self, images: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(images, indices=self.levels, norm=self.plain, intermediates_only=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.maps(images)
        return self.neck(OrderedDict((str(n), feature) for n, feature in enumerate(maps)))

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self


class SimpleFeaturePyramid(nn.Module):
    """The last map of a plain network, `[batch, width, h, w]`, at resolutions from FINEST pixels a step to half its own:
    deconvolutions, nothing, or a pooling, then a 1x1 and a 3x3 convolution, each with a layer norm."""

    def __init__(self, width: int, dim: int, stride: int) -> None:
        super().__init__()
        finer = max(0, (stride // FINEST).bit_length() - 1)
        self.strides = [stride >> n for n in range(finer, -1, -1)] + [2 * stride]
        self.resize, self.merge = nn.ModuleList(), nn.ModuleList()
        for doublings in [*range(finer, -1, -1), -1]:
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if doublings < 0 else []
            into = width
            for number in range(doublings):
                layers.append(nn.ConvTranspose2d(into, max(dim, into // 2), 2, stride=2))
                into = max(dim, into // 2)
                layers += [LayerNorm2d(into), nn.GELU()] if number < doublings - 1 else []
            self.resize.append(nn.Sequential(*layers))
            convolutions = nn.Conv2d(into, dim, 1, bias=False), nn.Conv2d(dim, dim, 3, padding=1, bias=False)
            self.merge.append(nn.Sequential(convolutions[0], LayerNorm2d(dim), convolutions[1], LayerNorm2d(dim)))
        self.coarser = LastLevelMaxPool()

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        (last,) = maps.values()
        found = [merge(resize(last)) for resize, merge in zip(self.resize, self.merge, strict=True)]
        out, names = self.coarser(found, found, [str(n) for n in range(len(found))])
        return OrderedDict(zip(names, out, strict=True))
