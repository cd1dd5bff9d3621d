from __future__ import annotations

import pytest
import torch

from ssl_pipeline.export import timm as form
from ssl_pipeline.export.export import form_of, write
from ssl_pipeline.part import PipelineError
from tests.export.conftest import embeddings_of
from tests.export.kinds import KINDS, RESNET

IMAGES = {
    "resnet": KINDS["resnet"],
    "stock_resnet": {"kind": "image", "image_size": 32, "stem": "default", "backbone": "resnet10t"},
    "vit": KINDS["vit"],
    "convnext": {"kind": "image", "image_size": 32, "backbone": "test_convnext"},
    "audio": KINDS["audio"],
    "video": KINDS["video"],
    "image_text": KINDS["image_text"],
}


@pytest.mark.parametrize("kind", IMAGES)
def test_timm_alone_gives_the_same_embedding(kind, registered, tmp_path) -> None:
    found = registered(**IMAGES[kind])
    output = tmp_path / "model"
    assert write(form_of("timm"), found, "timm", output) <= form.TOLERANCE
    network = form.network_in(found, "timm")
    pictures = network.inputs(2)
    there = embeddings_of(pictures, form.opens(found, "model"), tmp_path, {"ssl_pipeline"})
    torch.testing.assert_close(there, network.encoder(pictures), rtol=1e-4, atol=1e-5)


def test_stock_timm_does_not_open_another_stem_by_accident(registered, tmp_path) -> None:
    import timm

    found = registered(**KINDS["resnet"])
    write(form_of("timm"), found, "timm", tmp_path / "model")
    with pytest.raises(RuntimeError, match="conv1.weight"):
        timm.create_model(
            "resnet18", num_classes=0, in_chans=3, checkpoint_path=tmp_path / "model" / "model.safetensors",
            **RESNET["options"],
        )  # fmt: skip


@pytest.mark.parametrize(
    "settings, reason",
    [
        (KINDS["bert"], "an encoder of text has no timm network; choose onnx or safetensors"),
        ({"kind": "image", "image_size": 32, "backbone": "resnet10t"}, "stem: auto takes strides out of resnet10t"),
    ],
)
def test_what_timm_cannot_open_is_refused(settings, reason, registered, tmp_path) -> None:
    with pytest.raises(PipelineError, match=f"models:/tiny/1 cannot be exported as timm: {reason}"):
        write(form_of("timm"), registered(**settings), "timm", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files"]
