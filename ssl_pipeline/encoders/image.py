"""Images: normalisation, a timm backbone whose stem fits the image, and its pooling, in one module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.encoders.names import SMALL
from ssl_pipeline.encoders.stem import small_stem, small_stem_options
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import ImageEncoder as Settings


class ImageEncoder(Encoder):
    """images `[batch, channels, side, side]` in 0..1 -> embedding `[batch, dim]`.

    `mean` and `std` (one a channel) normalise inside.
    """

    takes = "image"
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, image_size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.image_size = image_size
        self.channels = len(mean)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.dim: int = backbone.head_hidden_size  # type: ignore[assignment]

    def read(self, batch: Batch) -> Tensor:
        """uint8 -> 0..1, in the autocast's precision"""
        images = batch["image"]
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        return images.to(dtype) / 255

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.backbone.forward_features(self.normalize(images)))

    def tokens(self, images: Tensor) -> Tensor:
        features = self.backbone.forward_features(self.normalize(images))
        return features if features.ndim == 3 else super().tokens(images)

    def maps(self, images: Tensor, stage: int = -1) -> Tensor:
        """-> features of every location `[batch, dim, height, width]`: a network's stage, a ViT's patch tokens after a block;
        -1 is the last. Raises PipelineError where the network has none in between, or no such stage."""
        try:
            (found,) = self.backbone.forward_intermediates(
                self.normalize(images), indices=[stage], norm=True, stop_early=True, intermediates_only=True
            )
        except (AttributeError, TypeError, AssertionError, RuntimeError) as error:
            raise PipelineError(
                f"{type(self.backbone).__name__} gives no map of features at stage {stage} ({error}): choose another stage, or a "
                "ResNet, a ConvNeXt or a ViT as encoder.backbone"
            ) from error
        return found

    def normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def pool(self, features: Tensor) -> Tensor:
        """The backbone's own last features (a map or tokens) -> `[batch, dim]`."""
        return self.backbone.forward_head(features, pre_logits=True)

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        shape = (count, self.channels, self.image_size, self.image_size)
        return {"image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self.backbone)


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The repeated parts of a timm backbone: a ViT's blocks, a ResNet's or ConvNeXt's stages."""
    children = dict(backbone.named_children())
    repeated = children.get("blocks", children.get("stages"))
    if repeated is None:
        return [module for name, module in children.items() if name.startswith("layer")]
    return list(repeated.children())


def build(settings: Settings, facts: dict[str, Any]) -> ImageEncoder:
    """`facts`: `channels`, and their `mean` and `std` in 0..1 (by default 0.5)."""
    size, channels = settings.image_size, facts["channels"]
    backbone = timm_backbone(settings, channels, size)
    encoder = ImageEncoder(backbone, size, facts.get("mean", [0.5] * channels), facts.get("std", [0.5] * channels))
    refuse_too_small(encoder, settings)
    if isinstance(settings.pretrained, str):
        read_weights(encoder, Path(settings.pretrained).expanduser())
    return encoder


def timm_backbone(settings: Any, channels: int, size: int | tuple[int, int]) -> nn.Module:
    """The backbone for images of this size, its stem changed where they are small."""
    name, options = settings.backbone, settings.options
    try:
        options = timm_options(settings, size)
        backbone = timm.create_model(
            name, pretrained=settings.pretrained is True, in_chans=channels, num_classes=0, **options
        )
    except (TypeError, AssertionError, ValueError, RuntimeError, OSError) as error:
        raise PipelineError(
            f"encoder {name!r} cannot be made with options {options}: {' '.join(str(error).split())}; "
            f"change encoder.options or encoder.{'image_size' if isinstance(size, int) else 'seconds'}"
        ) from error
    if has_small_stem(settings, size):
        small_stem(backbone, stride=2 if settings.stem == "half" else 1, keep_weights=keeps_stem(settings))
    return backbone


def timm_options(settings: Any, size: int | tuple[int, int]) -> dict[str, Any]:
    """Arguments for timm.create_model beside the name and the channels."""
    name, side = settings.backbone, size if isinstance(size, int) else min(size)
    options = small_stem_options(name, side) if has_small_stem(settings, size) else {}
    architecture = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if architecture and architecture.fixed_input_size else {}
    return fixed | options | settings.options


def has_small_stem(settings: Any, size: int | tuple[int, int]) -> bool:
    side = size if isinstance(size, int) else min(size)
    return settings.stem in ("small", "half") or (settings.stem == "auto" and side < SMALL)


def keeps_stem(settings: Any) -> bool:
    """Whether the pretrained weights, where there are any, hold a ResNet's own 7x7 stem."""
    if not isinstance(settings.pretrained, str):
        return settings.pretrained
    weights = weights_of(Path(settings.pretrained).expanduser())
    stem = weights.get("conv1.weight", weights.get("backbone.conv1.weight"))
    return stem is not None and stem.shape[-1] == 7


def refuse_too_small(encoder: ImageEncoder, settings: Settings) -> None:
    """Raises PipelineError, with the smallest side that fits, where the last feature map would vanish."""

    def fits(side: int) -> bool:
        try:
            with torch.no_grad():
                encoder.backbone.forward_features(torch.zeros(1, encoder.channels, side, side))
        except (RuntimeError, AssertionError, ValueError):
            return False
        return True

    was_training = encoder.training
    encoder.eval()
    if not fits(settings.image_size):
        side = next(
            (s for s in (32, 48, 64, 96, 128, 160, 192, 224, 256, 384) if s > settings.image_size and fits(s)), None
        )
        raise PipelineError(
            f"encoder {settings.backbone!r} cannot take images of {settings.image_size} pixels: "
            f"set encoder.image_size to {side or 224} or choose a backbone with a smaller total stride"
        )
    encoder.train(was_training)


def read_weights(encoder: ImageEncoder, path: Path) -> None:
    """Fills the encoder from a safetensors file, either one of ours (`backbone.*`) or a plain timm one. Never unpickles."""
    weights = weights_of(path)
    target: nn.Module = encoder if any(k.startswith("backbone.") for k in weights) else encoder.backbone
    try:
        missing, unexpected = target.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise PipelineError(
            f"pretrained weights {path}: shapes differ from this encoder's: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [k for k in missing if k not in ("mean", "std")]
    if missing:
        raise PipelineError(
            f"pretrained weights {path}: {len(missing)} tensors are missing, the first {missing[0]!r}; is it another backbone?"
        )
    del unexpected  # classifier weights are not used


def weights_of(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PipelineError(
            f"pretrained weights {path}: not a readable safetensors file ({error}); give one in encoder.pretrained"
        ) from error
