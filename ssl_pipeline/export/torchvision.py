"""The network under a torchvision detector, as a folder with the Python file that builds one (`torchvision_detector.py`)."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ssl_pipeline.encoders.image import ImageEncoder
from ssl_pipeline.evaluate.detector import Pyramid, network_of
from ssl_pipeline.export import torchvision_detector
from ssl_pipeline.export.timm import Network, network_in
from ssl_pipeline.store import write_json

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", (), ""
TOLERANCE = 1e-5
FINEST_SIDE = 128


def pyramid_of(found: Registered) -> tuple[Network, Pyramid]:
    """The detector's backbone as the evaluation builds it. Raises PipelineError where torchvision's pyramid does not fit."""
    network = network_in(found, "torchvision")
    if not isinstance(network.encoder, ImageEncoder):
        raise found.refuse("torchvision", "spectrograms have no boxes; choose onnx or safetensors")
    made_by: Any = getattr(found.settings, "image", found.settings)
    pyramid = Pyramid(network_of(network.encoder, made_by), network.encoder.channels, dim=8, frozen=True).eval()
    if pyramid.plain:
        raise found.refuse(
            "torchvision", f"{network.name} has maps of one resolution, and a feature pyramid needs several: pretrain a ResNet "
            "or a ConvNeXt, or choose timm",
        )  # fmt: skip
    return network, pyramid


def write(found: Registered, output: Path) -> None:
    network, pyramid = pyramid_of(found)
    encoder, first = network.encoder, network.first
    stem = first and {
        "out_channels": first.out_channels, "kernel_size": first.kernel_size[0], "stride": first.stride[0],
        "padding": first.padding[0],
    }  # fmt: skip
    maps = pyramid.maps(torch.zeros(1, encoder.channels, FINEST_SIDE, FINEST_SIDE))
    output.mkdir()
    config = {
        "name": network.name, "options": network.options, "channels": encoder.channels, "stem": stem,
        "levels": pyramid.levels, "strides": pyramid.strides, "widths": [feature.shape[1] for feature in maps],
        "mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist(), "source": found.uri,
    }  # fmt: skip
    write_json(output / "network.json", config)
    save_file(
        {name: value.contiguous() for name, value in network.module.state_dict().items()},
        output / "network.safetensors",
    )
    shutil.copyfile(torchvision_detector.__file__, output / "detector.py")


def compare(found: Registered, output: Path) -> Compared:
    """The maps that the pyramid is given; and the detector runs."""
    network, pyramid = pyramid_of(found)
    spec = importlib.util.spec_from_file_location("detector", output / "detector.py")
    assert spec and spec.loader
    written: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    model = written.detector(classes=2, dim=8).eval()
    images = torch.rand(2, network.encoder.channels, 96, FINEST_SIDE, generator=torch.Generator().manual_seed(0))
    inputs = network.encoder.normalize(images)
    for stride, ours, theirs in zip(pyramid.strides, pyramid.maps(inputs), model.backbone.maps(inputs), strict=True):
        yield f"the map of {stride} pixels a step", ours, theirs
    model(list(images))


def opens(found: Registered, path: str) -> str:
    return f"""\
import sys

sys.path.insert(0, {path!r})
from detector import detector

model = detector(classes=2)  # torchvision's FasterRCNN; train it on boxes
losses = model(images, targets)  # images: [channels, height, width] in 0..1; targets: boxes, and labels from 1
detections = model.eval()(images)
"""
