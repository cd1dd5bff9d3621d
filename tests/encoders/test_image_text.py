from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssl_pipeline.encoders.image_text import build
from ssl_pipeline.encoders.settings_image_text import ImageTextEncoder
from tests.captioned_squares import pack_of, settings_of


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def batch(pack):
    return {name: torch.from_numpy(np.array(array[:6])) for name, array in pack.samples("test").items()}


def made(pack, **parts):
    torch.manual_seed(0)
    return build(settings_of(**parts), pack.facts)


def test_images_and_captions_land_in_one_space(pack, batch):
    encoder = made(pack).eval()
    inputs = encoder.read(batch)
    assert inputs["images"].min() >= 0 and inputs["images"].max() <= 1 and inputs["tokens"].dtype == torch.long
    assert encoder(inputs).shape == encoder.text(inputs["tokens"][:, 0]).shape == (6, 32) and encoder.dim == 32
    torch.testing.assert_close(encoder(encoder.read({"image": batch["image"]})), encoder(inputs))


def test_captions_are_tokenized_as_the_pack_has_them(pack, batch):
    encoder = made(pack)
    said = encoder.read_out(batch["tokens"][:, 0].long())
    assert said[0] == "a red square at the top left"
    assert torch.equal(encoder.tokenize(said), batch["tokens"][:, 0].long())


def test_padding_changes_nothing(pack):
    encoder = made(pack).eval()
    tokens = encoder.tokenize(["red", "a blue"])
    assert encoder.text_tower.read({"tokens": tokens}).shape[1] < tokens.shape[1]
    whole = encoder.text_projection(encoder.text_tower(tokens))
    torch.testing.assert_close(encoder.text(tokens), whole, atol=1e-5, rtol=1e-5)


def test_what_is_deployed_takes_images_alone_in_any_number(pack):
    encoder = made(pack).eval()

    class Deployed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, image):
            return self.encoder(self.encoder.read({"image": image}))

    dynamic = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Deployed(), (encoder.example(3)["image"],), dynamic_shapes=dynamic)
    image = encoder.example(5, torch.Generator().manual_seed(1))["image"]
    torch.testing.assert_close(program.module()(image), encoder(encoder.read({"image": image})))


def test_frozen_towers_stay_as_they_are(pack, batch, tmp_path):
    weights = {k: v.contiguous() for k, v in made(pack).image_tower.state_dict().items()}
    save_file(weights, tmp_path / "tower.safetensors")
    image = settings_of().image.model_dump() | {"pretrained": str(tmp_path / "tower.safetensors")}
    encoder = made(pack, image=image, frozen="image").train()
    assert not encoder.image_tower.training and encoder.text_tower.training
    inputs = encoder.read(batch)
    (encoder(inputs).sum() + encoder.text(inputs["tokens"][:, 0]).sum()).backward()
    assert all(weight.grad is None for weight in encoder.image_tower.parameters())
    assert encoder.image_projection.weight.grad.abs().sum() > 0
    assert sum(weight.grad.abs().sum() for weight in encoder.text_tower.parameters() if weight.grad is not None) > 0
    assert all(torch.equal(value, weights[name]) for name, value in encoder.image_tower.state_dict().items())


def test_weights_are_all_that_is_needed(pack, batch):
    encoder, twin = made(pack).eval(), build(settings_of(), pack.facts).eval()
    assert not torch.equal(twin.image_projection.weight, encoder.image_projection.weight)
    twin.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(twin(twin.read(batch)), encoder(encoder.read(batch)))


def test_towers_count_once_for_sharding(pack):
    from ssl_pipeline.encoders.encoder import Encoder

    blocks = [block for module in made(pack).modules() if isinstance(module, Encoder) for block in module.blocks()]
    assert len(blocks) == len({id(block) for block in blocks}) == 5


def test_settings():
    assert ImageTextEncoder().text.length == 32 and settings_of(text={"width": 64}).text.length == 32
    assert settings_of().packing() != settings_of(captions=3).packing()
    assert (
        settings_of().packing() == settings_of(dim=64, text=settings_of().text.model_dump() | {"layers": 2}).packing()
    )
    with pytest.raises(ValueError, match=r"frozen 'image' keeps the image tower.*set image.pretrained"):
        settings_of(frozen="image")
    with pytest.raises(ValueError, match=r"frozen 'both' keeps the image tower"):
        settings_of(frozen="both")


def test_settings_without_weights_are_settings(tmp_path):
    image = settings_of().image.model_dump() | {"pretrained": str(tmp_path / "tower.safetensors")}
    fresh = settings_of(image=image, frozen="image").without_weights()
    assert fresh == settings_of() == ImageTextEncoder.model_validate(fresh.model_dump())
