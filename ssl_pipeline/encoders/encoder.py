"""The encoder: normalisation, a timm backbone whose stem fits the image, and its pooling, in one module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_pipeline.encoders.names import SMALL
from ssl_pipeline.encoders.stem import small_stem, small_stem_options
from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import write_json

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Encoder as Settings


class Encoder(nn.Module):
    """images `[batch, channels, side, side]` in 0..1 -> embedding `[batch, dim]`.

    `mean` and `std` (one a channel) normalise inside, so that whoever has the weights has the preprocessing.
    """

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

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.backbone.forward_features(self.normalize(images)))

    def normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def pool(self, features: Tensor) -> Tensor:
        """The backbone's own last features (a map or tokens) -> `[batch, dim]`."""
        return self.backbone.forward_head(features, pre_logits=True)


def build(
    settings: Settings, channels: int, mean: list[float] | None = None, std: list[float] | None = None
) -> Encoder:
    """The encoder that a recipe's `encoder` part describes, on the CPU, with fresh weights from torch's global generator
    unless pretrained ones are asked for.

    Raises PipelineError for an image too small for the backbone, options it does not take, or weights that do not fit.
    """
    size, name = settings.image_size, settings.backbone
    small = settings.stem in ("small", "half") or (settings.stem == "auto" and size < SMALL)
    options = (small_stem_options(name, size) if small else {}) | settings.options
    try:
        architecture = timm.get_pretrained_cfg(name)
        if architecture and architecture.fixed_input_size:
            options = {"img_size": size} | options
        backbone = timm.create_model(
            name, pretrained=settings.pretrained is True, in_chans=channels, num_classes=0, **options
        )
    except (TypeError, AssertionError, ValueError, RuntimeError, OSError) as error:
        raise PipelineError(
            f"encoder {name!r} cannot be made with options {options}: {' '.join(str(error).split())}; "
            "change encoder.options or encoder.image_size"
        ) from error
    if small:
        small_stem(backbone, stride=2 if settings.stem == "half" else 1, keep_weights=keeps_stem(settings))
    encoder = Encoder(backbone, size, mean or [0.5] * channels, std or [0.5] * channels)
    refuse_too_small(encoder, settings)
    if isinstance(settings.pretrained, str):
        read_weights(encoder, Path(settings.pretrained).expanduser())
    return encoder


def keeps_stem(settings: Settings) -> bool:
    """Whether the pretrained weights, where there are any, hold a ResNet's own 7x7 stem."""
    if not isinstance(settings.pretrained, str):
        return settings.pretrained
    weights = weights_of(Path(settings.pretrained).expanduser())
    stem = weights.get("conv1.weight", weights.get("backbone.conv1.weight"))
    return stem is not None and stem.shape[-1] == 7


def refuse_too_small(encoder: Encoder, settings: Settings) -> None:
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


def read_weights(encoder: Encoder, path: Path) -> None:
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


def save(encoder: Encoder, settings: Settings, folder: Path) -> None:
    """Writes `encoder.safetensors` and, last and atomically, `encoder.json` that says how to build it."""
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, folder / "encoder.safetensors"
    )
    config = settings.model_dump(mode="json") | {"pretrained": False}
    write_json(folder / "encoder.json", {"encoder": config, "channels": encoder.channels, "dim": encoder.dim})


def load(folder: Path) -> Encoder:
    """The encoder that `save` wrote, in evaluation mode."""
    from ssl_pipeline.recipe import Encoder as Settings

    try:
        record = json.loads((folder / "encoder.json").read_text())
        weights = load_file(folder / "encoder.safetensors")
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise PipelineError(
            f"encoder in {folder}: cannot be read ({error}); delete that folder and run again"
        ) from error
    encoder = build(Settings.model_validate(record["encoder"]), record["channels"])
    encoder.load_state_dict(weights)
    return encoder.eval()
