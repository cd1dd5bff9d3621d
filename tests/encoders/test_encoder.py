from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from ssl_pipeline.encoders.encoder import build, load, save
from ssl_pipeline.encoders.names import backbones, closest_backbones
from ssl_pipeline.encoders.settings import ImageEncoder as Encoder
from ssl_pipeline.part import PipelineError


def test_names_are_timms_own():
    assert backbones() == set(timm.list_models())
    assert closest_backbones("resnet18.a1_in1k") is None
    assert "resnet18" in closest_backbones("resnet81")


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet10t", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"]
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_backbone_any_channels(backbone, channels):
    encoder = build(Encoder(backbone=backbone, image_size=32), {"channels": channels}).eval()
    assert encoder(torch.rand(2, channels, 32, 32)).shape == (2, encoder.dim)


def test_small_stem_keeps_the_resolution():
    small, default = (
        build(Encoder(backbone="resnet18", image_size=32, stem=stem), {"channels": 1}) for stem in ("small", "default")
    )
    small.eval(), default.eval()
    x = torch.rand(1, 1, 32, 32)
    assert small.backbone.forward_features(x).shape[-1] == 4
    assert default.backbone.forward_features(x).shape[-1] == 1


def test_too_small_an_image_is_refused_with_a_size_that_fits():
    with pytest.raises(
        PipelineError, match=r"'convnext_atto' cannot take images of 16 pixels: set encoder.image_size to 32"
    ):
        build(Encoder(backbone="convnext_atto", image_size=16, stem="default"), {"channels": 3})


def test_normalisation_is_inside():
    encoder = build(Encoder(backbone="test_resnet", image_size=32), {"channels": 1, "mean": [0.2], "std": [0.4]}).eval()
    plain = build(Encoder(backbone="test_resnet", image_size=32), {"channels": 1, "mean": [0.0], "std": [1.0]}).eval()
    plain.backbone.load_state_dict(encoder.backbone.state_dict())
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(encoder(x), plain((x - 0.2) / 0.4))


def test_saved_and_loaded_is_the_same(tmp_path):
    settings = Encoder(backbone="test_vit", image_size=28, options={"patch_size": 4})
    encoder = build(settings, {"channels": 1, "mean": [0.1], "std": [0.3]}).eval()
    save(encoder, settings, {"channels": 1}, tmp_path)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(encoder(x), load(tmp_path)(x))


def test_pretrained_weights_from_a_file_never_unpickle(tmp_path):
    settings = Encoder(backbone="test_resnet", image_size=32, pretrained=str(tmp_path / "w.safetensors"))
    timm_model = timm.create_model("test_resnet", in_chans=3)
    timm_model.conv1 = build(Encoder(backbone="test_resnet", image_size=32), {"channels": 3}).backbone.conv1
    save_file(timm_model.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(
        build(settings, {"channels": 3}).backbone.layer4[0].conv1.weight, timm_model.layer4[0].conv1.weight
    )
    torch.save(timm_model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(PipelineError, match="not a readable safetensors file"):
        build(settings, {"channels": 3})
    save_file({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(PipelineError, match="tensors are missing"):
        build(settings, {"channels": 3})


def test_options_that_the_backbone_does_not_take():
    with pytest.raises(PipelineError, match=r"encoder 'resnet18' cannot be made with options .*change encoder.options"):
        build(Encoder(backbone="resnet18", image_size=32, options={"depht": 3}), {"channels": 3})


@pytest.mark.parametrize(("stem", "kernel"), [("default", 7), ("small", 3)])
def test_weights_from_a_file_decide_the_kernel_of_a_small_stem(tmp_path, stem, kernel):
    """timm's own 7x7 kernels are kept at stride 1; an encoder that was saved with a 3x3 stem gets it back."""
    before = build(Encoder(backbone="resnet18", image_size=64, stem=stem), {"channels": 3})
    path = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in before.backbone.state_dict().items()}, path)
    after = build(Encoder(backbone="resnet18", image_size=32, stem="small", pretrained=str(path)), {"channels": 3})
    assert after.backbone.conv1.weight.shape[-1] == kernel
    assert torch.equal(after.backbone.conv1.weight, before.backbone.conv1.weight)


def test_an_unknown_pretrained_tag_is_named():
    with pytest.raises(PipelineError, match=r"'resnet18\.bogus' cannot be made"):
        build(Encoder(backbone="resnet18.bogus", pretrained=True), {"channels": 3})
