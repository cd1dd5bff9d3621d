from __future__ import annotations

import pytest
import torch

from ssl_pipeline.export import transformers as form
from ssl_pipeline.export.export import form_of, write
from ssl_pipeline.export.transformers_vit import plain_vit_in
from ssl_pipeline.part import PipelineError
from tests.export.conftest import embeddings_of
from tests.export.kinds import KINDS, VIT

VITS = {
    "image": KINDS["vit"],
    "audio": {"kind": "audio", "seconds": 0.48, "mels": 32, "sample_rate": 8000} | VIT,  # a picture that is no square
    "video": {"kind": "video", "image_size": 16, "frames": 3} | VIT,
}


@pytest.mark.parametrize("kind", VITS)
def test_transformers_alone_gives_a_vits_embedding(kind, registered, tmp_path) -> None:
    found = registered(**VITS[kind])
    assert write(form_of("transformers"), found, "transformers", tmp_path / "model") <= form.TOLERANCE
    network = plain_vit_in(found, "transformers")
    pictures = network.inputs(2)
    there = embeddings_of(pictures, form.opens(found, "model"), tmp_path, {"ssl_pipeline", "timm"})
    torch.testing.assert_close(there, network.encoder(pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"init_values": 0.1}, "test_vit has blocks.0.ls1.gamma; a plain ViT has a class token that is pooled"),
        ({"reg_tokens": 2}, "test_vit has reg_token"),
        ({"qkv_bias": False}, "test_vit has no blocks.0.attn.qkv.bias"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "test_vit has no cls_token"),
        ({"no_embed_class": True}, "test_vit has no position for its class token"),
        ({"global_pool": "avg", "fc_norm": False}, "test_vit is pooled by avg"),
        ({"act_layer": "relu"}, "the hidden state of a batch of 1 differs there by"),
    ],
)
def test_another_vit_is_refused(options, reason, registered, tmp_path) -> None:
    settings = KINDS["vit"] | {"options": VIT["options"] | options}
    with pytest.raises(PipelineError, match=f"models:/tiny/1 cannot be exported as transformers: {reason}"):
        write(form_of("transformers"), registered(**settings), "transformers", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files"]


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("resnet", "resnet18 is no ViT; choose timm, onnx or safetensors"),
        ("series", "an encoder of series has no timm network; choose onnx or safetensors"),
    ],
)
def test_what_is_neither_text_nor_a_vit_is_refused(kind, reason, registered, tmp_path) -> None:
    with pytest.raises(PipelineError, match=reason):
        write(form_of("transformers"), registered(**KINDS[kind]), "transformers", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files"]
