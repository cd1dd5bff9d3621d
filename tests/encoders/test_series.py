from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssl_pipeline.encoders.series import build
from ssl_pipeline.encoders.settings_series import SeriesEncoder

FACTS = {"mean": [10.0, -3.0, 0.0], "std": [4.0, 1.0, 0.5]}
KINDS = [(channels, normalize) for channels in ("mixed", "independent") for normalize in ("dataset", "instance")]


def make(channels="mixed", normalize="dataset"):
    torch.manual_seed(0)
    small = {"length": 24, "patch": 4, "width": 16, "depth": 2, "heads": 2}
    return build(SeriesEncoder(channels=channels, normalize=normalize, **small), FACTS).eval()


@pytest.fixture
def stored():
    return make().example(5, torch.Generator().manual_seed(1))


def test_reading_takes_the_training_splits_mean_and_deviation(stored):
    read = make().read(stored)
    expected = (stored["values"] - torch.tensor([10, -3, 0.0]).view(1, 3, 1)) / torch.tensor([4, 1, 0.5]).view(1, 3, 1)
    torch.testing.assert_close(read, expected)


@pytest.mark.parametrize(("channels", "normalize"), KINDS)
def test_embeddings_have_the_promised_size_and_depend_on_each_sample_alone(stored, channels, normalize):
    encoder = make(channels, normalize)
    embedding = encoder(encoder.read(stored))
    assert embedding.shape == (5, encoder.dim)
    assert encoder.dim == 2 * 16 * (3 if channels == "independent" else 1) + (6 if normalize == "instance" else 0)
    torch.testing.assert_close(encoder(encoder.read({"values": stored["values"][2:3]})), embedding[2:3])


def test_patches_hold_the_values_in_their_place(stored):
    inputs = make().read(stored)
    mixed, _ = make().patchify(inputs)
    assert mixed.shape == (5, 1, 6, 12)
    torch.testing.assert_close(mixed[2, 0, 3].view(3, 4), inputs[2, :, 12:16])
    single, _ = make("independent").patchify(inputs)
    assert single.shape == (5, 3, 6, 4)
    torch.testing.assert_close(single[2, 1, 3], inputs[2, 1, 12:16])


def test_independent_channels_do_not_see_each_other(stored):
    encoder = make("independent")
    before = encoder(encoder.read(stored))
    stored["values"][:, 1] += 3 * torch.randn(5, 24)
    changed = (encoder(encoder.read(stored)) - before).abs().max(0).values.view(2, 3, 16).amax((0, 2))
    assert changed[1] > 0.1 and changed[[0, 2]].max() == 0


def test_instance_normalisation_against_a_loop_in_float64_and_its_invariance(stored):
    encoder = make("independent", "instance")
    inputs = encoder.read(stored)
    patches, level = encoder.patchify(inputs)
    for sample in range(5):
        for channel in range(3):
            x = inputs[sample, channel].numpy().astype(np.float64)
            np.testing.assert_allclose(patches[sample, channel].flatten(), (x - x.mean()) / x.std(), atol=1e-3)
            np.testing.assert_allclose(level[sample, [channel, 3 + channel]], [x.mean(), np.log(x.std())], atol=1e-3)
    moved, other = encoder.patchify(inputs * 7 + 2)
    torch.testing.assert_close(moved, patches, atol=1e-3, rtol=0)
    torch.testing.assert_close(other, torch.cat([7 * level[:, :3] + 2, level[:, 3:] + np.log(7)], 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalize", ["dataset", "instance"])
def test_constant_channels_and_large_values_give_finite_embeddings_and_gradients(normalize):
    encoder = make("mixed", normalize)
    values = torch.stack([torch.zeros(3, 24), torch.full((3, 24), 1e6), torch.randn(3, 24) * 1e6])
    embedding = encoder(encoder.read({"values": values}))
    embedding.square().mean().backward()
    assert embedding.isfinite().all() and all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(("channels", "normalize"), KINDS)
def test_exported_with_a_dynamic_batch(stored, channels, normalize):
    class Deployed(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, values):
            return self.encoder(self.encoder.read({"values": values}))

    model = Deployed(make(channels, normalize))
    dynamic = {"values": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (stored["values"],), dynamic_shapes=dynamic)
    for count in (1, 3, 17):
        values = model.encoder.example(count)["values"]
        torch.testing.assert_close(program.module()(values), model(values), atol=1e-5, rtol=1e-5)


def test_weights_hold_all_that_the_data_decided(stored):
    encoder = make()
    twin = build(
        SeriesEncoder(length=24, patch=4, width=16, depth=2, heads=2), {"mean": [0.0] * 3, "std": [1.0] * 3}
    ).eval()
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin(twin.read(stored)), encoder(encoder.read(stored)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 100}, "length 100 is not a multiple of patch 8: set length to 96 or patch to a divisor"),
        ({"length": 8}, "patch 8 leaves one patch of length 8"),
        ({"width": 130}, "width 130 is not a multiple of heads 4: set width to 128"),
        ({"channels": 3}, "Input should be 'independent' or 'mixed'"),
    ],
)
def test_settings_that_do_not_fit_name_their_cure(settings, message):
    with pytest.raises(ValidationError, match=message):
        SeriesEncoder(**settings)


def test_show_draws_each_window(stored):
    pictures = make().show(stored)
    assert pictures.shape == (5, 3, 96, 192) and pictures.dtype == np.float32
    assert pictures.min() >= 0 and pictures.max() <= 1 and (pictures.reshape(5, -1).min(1) < 0.5).all()
