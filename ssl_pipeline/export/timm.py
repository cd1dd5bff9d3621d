"""The network alone, as a checkpoint that `timm.create_model` opens: of an image, a frame of a video, the image beside a caption,
or the picture of a sound. What is in front of it (normalisation, the spectrogram) and behind it (a projection) is told, not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_pipeline.encoders.audio import AudioEncoder
from ssl_pipeline.encoders.image import ImageEncoder, timm_options
from ssl_pipeline.encoders.image_text import ImageTextEncoder
from ssl_pipeline.encoders.video import VideoEncoder

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", (), ""
TOLERANCE = 1e-5
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Network:
    """An encoder's timm network and what its recipe says of it."""

    encoder: ImageEncoder | AudioEncoder
    name: str
    options: dict[str, Any]
    size: tuple[int, int]
    first: nn.Conv2d | None
    """Of a ResNet whose stem the recipe changed, which timm has no option for."""

    @property
    def module(self) -> Any:
        return self.encoder.backbone

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, which normalise."""
        mean, std = ([float(f"{v:.7g}") for v in t.flatten()] for t in (self.encoder.mean, self.encoder.std))
        return mean, std

    def inputs(self, batch: int) -> Tensor:
        """Random pictures in 0..1."""
        generator = torch.Generator().manual_seed(batch)
        return torch.rand(batch, self.encoder.channels, *self.size, generator=generator)


def network_in(found: Registered, format: str) -> Network:
    """Raises PipelineError for an encoder without a timm network."""
    encoder: Any = found.encoder
    settings: Any = found.settings
    if isinstance(encoder, ImageTextEncoder):
        encoder, settings = encoder.image_tower, settings.image
    elif isinstance(encoder, VideoEncoder):
        encoder = encoder.frame
    if not isinstance(encoder, ImageEncoder | AudioEncoder):
        raise found.refuse(format, f"an encoder of {settings.kind} has no timm network; choose onnx or safetensors")
    size = settings.image_size if isinstance(encoder, ImageEncoder) else settings.shape
    first = first_of_changed_stem(encoder.backbone)
    if first is not None and (encoder.backbone.conv1 is not first or first.kernel_size[0] == 7):
        # opened without the change, such weights fit, and give other numbers
        raise found.refuse(
            format,
            f"stem: {settings.stem} takes strides out of {settings.backbone} that timm has no option for; pretrain "
            "with encoder.stem: default, or choose onnx or safetensors",
        )
    return Network(encoder, settings.backbone, timm_options(settings, size), settings.shape, first)


def first_of_changed_stem(backbone: Any) -> nn.Conv2d | None:
    """Where a recipe's `stem` took the pooling out of a ResNet."""
    if not isinstance(getattr(backbone, "maxpool", None), nn.Identity):
        return None
    return backbone.conv1 if isinstance(backbone.conv1, nn.Conv2d) else backbone.conv1[0]


def write(found: Registered, output: Path) -> None:
    network = network_in(found, "timm")
    output.mkdir()
    save_file({name: value.contiguous() for name, value in network.module.state_dict().items()}, output / WEIGHTS)


def compare(found: Registered, output: Path) -> Compared:
    network = network_in(found, "timm")
    for batch in (1, 3):
        inputs = network.inputs(batch)
        opened: dict[str, Any] = {"pictures": inputs}
        # the code itself, since it is what a person copies
        exec(opens(found, str(output)), opened)
        features = network.module.forward_features(network.encoder.normalize(inputs))
        theirs = opened["model"].forward_features((inputs - opened["mean"]) / opened["std"])
        yield f"forward_features of a batch of {batch}", features, theirs
        yield f"the embedding of a batch of {batch}", network.encoder(inputs), opened["embeddings"]


def opens(found: Registered, path: str) -> str:
    network = network_in(found, "timm")
    options = "".join(f", {name}={value!r}" for name, value in network.options.items())
    call = f"timm.create_model({network.name!r}, num_classes=0, in_chans={network.encoder.channels}{options}"
    checkpoint = f"{path}/{WEIGHTS}"
    mean, std = network.statistics
    if (first := network.first) is None:
        lines = f"import timm\nimport torch\n\nmodel = {call}, checkpoint_path={checkpoint!r}).eval()\n"
    else:
        lines = f"""\
import timm
import torch
from torch import nn

model = {call}).eval()
# the stem for small images, which timm has no option for
model.conv1 = nn.Conv2d({first.in_channels}, {first.out_channels}, {first.kernel_size[0]}, stride={first.stride[0]}, \
padding={first.padding[0]}, bias={first.bias is not None})
model.maxpool = nn.Identity()
timm.models.load_checkpoint(model, {checkpoint!r})
"""
    return (
        lines
        + f"""\
mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in ({mean}, {std}))
features = model.forward_features((pictures - mean) / std)  # pictures: float32 in 0..1, [batch, {network.encoder.channels}, \
{network.size[0]}, {network.size[1]}]
embeddings = model.forward_head(features, pre_logits=True)
"""
    )
