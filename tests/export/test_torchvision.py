from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ssl_pipeline.export import torchvision as form
from ssl_pipeline.export.export import form_of, write
from ssl_pipeline.part import PipelineError
from tests.export.kinds import KINDS

TRAIN = """
import torch
torch.manual_seed(0)
images = [torch.rand(3, 96, 128), torch.rand(3, 64, 64)]
targets = [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}] * 2
"""
FEATURE = """\
with torch.no_grad():
    torch.save(model.eval().backbone.network.forward_features(torch.full((1, 3, 64, 64), 0.3)), "feature.pt")
model.train()
losses = """
CHECK = """
assert "ssl_pipeline" not in sys.modules and type(model).__module__ == "torchvision.models.detection.faster_rcnn"
assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 4
assert [set(found) for found in detections] == [{"boxes", "labels", "scores"}] * 2
"""


@pytest.mark.parametrize(
    "settings",
    [
        KINDS["resnet"],
        {"kind": "image", "image_size": 64, "stem": "default", "backbone": "resnet10t"},
        {"kind": "image", "image_size": 32, "backbone": "test_convnext"},
        KINDS["image_text"],
    ],
    ids=["resnet", "stock_resnet", "convnext", "image_text"],
)
def test_a_torchvision_detector_trains_on_the_encoders_network(settings, registered, tmp_path) -> None:
    found = registered(**settings)
    assert write(form_of("torchvision"), found, "torchvision", tmp_path / "model") <= form.TOLERANCE
    opens = form.opens(found, "model").replace("classes=2", "classes=2, min_size=64, max_size=128")
    code = TRAIN + opens.replace("losses = ", FEATURE) + CHECK
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    encoder = getattr(found.encoder, "image_tower", found.encoder)
    with torch.no_grad():
        expected = encoder.backbone.eval().forward_features(torch.full((1, 3, 64, 64), 0.3))
    torch.testing.assert_close(torch.load(tmp_path / "feature.pt"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("vit", "test_vit has maps of one resolution, and a feature pyramid needs several"),
        ("audio", "spectrograms have no boxes"),
        ("bert", "an encoder of text has no timm network"),
    ],
)
def test_what_has_no_pyramid_is_refused(kind, reason, registered, tmp_path) -> None:
    with pytest.raises(PipelineError, match=f"cannot be exported as torchvision: {reason}"):
        write(form_of("torchvision"), registered(**KINDS[kind]), "torchvision", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files"]
