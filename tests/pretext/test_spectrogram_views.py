from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.spectrogram_views import NEPER, SpectrogramViews

PLAIN = {"frequency_shift": 0, "gain": 0, "noise": 0, "frequency_masks": 0, "time_masks": 0}


def parameters(n, **changed):
    identity = {
        "crop": torch.tensor([1.0, 0, 0]).repeat(n, 1),
        "level": torch.zeros(n, 5),
        "frequency_mask": torch.zeros(n, 1, 2),
        "time_mask": torch.zeros(n, 1, 2),
    }
    return identity | changed


@pytest.fixture
def pictures():
    """Smooth pictures `[3, 1, 32, 48]` in 0.2..0.8."""
    noise = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(noise, (32, 48), mode="bilinear").clamp(0, 1)


def test_identity_parameters_change_nothing(pictures):
    torch.testing.assert_close(SpectrogramViews().render(pictures, parameters(3)), pictures, atol=1e-5, rtol=0)


def test_same_generator_same_views():
    a, b, c = (SpectrogramViews().draw((5, 2), generator(seed, "x")) for seed in (3, 3, 4))
    assert {name: value.shape[:2] for name, value in a.items()} == dict.fromkeys(a, (5, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["crop"], c["crop"])


def test_draws_are_within_their_bounds():
    views = SpectrogramViews(min_time=0.3, max_time=0.9, frequency_shift=0.1, gain=0.07, noise=0.25, noise_level=0.3)
    drawn = views.draw((4000,), generator(0))
    share, offset, shift = drawn["crop"].unbind(-1)
    assert 0.3 <= share.min() < 0.31 and 0.89 < share.max() <= 0.9
    assert (share + offset.abs() <= 1 + 1e-6).all() and 0.09 < shift.abs().max() <= 0.1
    assert 0.06 < drawn["level"][:, 0].abs().max() <= 0.07 and drawn["level"][:, 2].max() <= 0.3
    assert drawn["level"][:, 1].mean() == pytest.approx(0.25, abs=0.03)
    for name in ("frequency_mask", "time_mask"):
        start, width = drawn[name].unbind(-1)
        assert start.min() >= 0 and (start + width).max() <= 1 and 0.19 < width.max() <= 0.2


def test_a_crop_in_time_is_that_of_interpolate(pictures):
    first_half = parameters(3, crop=torch.tensor([0.5, -0.5, 0.0]).repeat(3, 1))
    out = SpectrogramViews(**PLAIN).render(pictures, first_half)
    expected = torch.nn.functional.interpolate(pictures[..., :24], (32, 48), mode="bilinear")
    torch.testing.assert_close(out[..., 1:-1], expected[..., 1:-1], atol=1e-5, rtol=0)
    small = SpectrogramViews(**PLAIN).render(pictures, parameters(3), (16, 24))
    expected = torch.nn.functional.interpolate(pictures, (16, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bands", [-3, 2])
def test_a_shift_moves_bands_up_and_repeats_the_last(pictures, bands):
    moved = parameters(3, crop=torch.tensor([1.0, 0.0, bands / 32]).repeat(3, 1))
    out = SpectrogramViews(**(PLAIN | {"frequency_shift": 0.1})).render(pictures, moved)
    rows = (torch.arange(32) - bands).clamp(0, 31)  # what was in band 5 is now in band 5 + bands
    torch.testing.assert_close(out, pictures[:, :, rows], atol=1e-5, rtol=0)


def test_noise_adds_as_a_power_and_gain_as_a_shift(pictures):
    level = torch.tensor([[0.0, 1, 0.5, 0.1, -0.05], [0.05, 0, 0.5, 0.1, 0.1], [-0.05, 1, 0.0, 0, 0]])
    out = (
        SpectrogramViews(frequency_masks=0, time_masks=0).render(pictures, parameters(3, level=level)).double().numpy()
    )
    before = pictures.double().numpy()
    mel = np.linspace(-1, 1, 32)[:, None]
    noise = 0.5 + 0.1 * mel - 0.05 * (mel**2 - 1 / 3)
    np.testing.assert_allclose(out[0], NEPER * np.log(np.exp(before[0] / NEPER) + np.exp(noise / NEPER)), atol=1e-5)
    np.testing.assert_allclose(out[1], before[1] + 0.05, atol=1e-5)
    np.testing.assert_allclose(out[2], before[2] - 0.05, atol=1e-3)  # noise at the bottom of the range is not heard


def test_masks_hide_rows_and_columns_behind_the_mean(pictures):
    frequency = torch.tensor([[[0.25, 0.25]], [[0.0, 0.0]], [[0.75, 0.25]]])
    time = torch.tensor([[[0.0, 0.0]], [[0.5, 0.125]], [[0.0, 0.25]]])
    out = SpectrogramViews().render(pictures, parameters(3, frequency_mask=frequency, time_mask=time))
    hidden = torch.zeros(3, 1, 32, 48, dtype=torch.bool)
    hidden[0, :, 8:16] = hidden[1, :, :, 24:30] = hidden[2, :, 24:] = hidden[2, :, :, :12] = True
    mean = pictures.mean((1, 2, 3), keepdim=True).expand_as(pictures)
    torch.testing.assert_close(out, torch.where(hidden, mean, pictures), atol=1e-5, rtol=0)


def test_views_are_in_order_and_each_is_its_sample_alone(pictures):
    views = SpectrogramViews()
    drawn = views.draw((3, 2), generator(1))
    together = views.render(pictures, drawn)
    assert together.shape == (6, 1, 32, 48) and together.min() >= 0 and together.max() <= 1
    for sample in range(3):  # so processes that share a batch make the views of one that has it all
        alone = views.render(pictures[sample : sample + 1], {k: v[sample : sample + 1] for k, v in drawn.items()})
        torch.testing.assert_close(alone[:, 0], together[[sample, 3 + sample], 0])


def test_bf16_views_are_fp32_views_to_two_digits(pictures):
    drawn = SpectrogramViews().draw((3, 4), generator(1))
    exact = SpectrogramViews().render(pictures, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = SpectrogramViews().render(pictures, drawn)
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.03 and (exact - rounded).abs().mean() < 3e-3


@pytest.mark.parametrize("switched", [{"frequency_masks": 0}, {"time_masks": 0}, PLAIN, {"time_masks": 3}])
def test_operators_can_be_switched_off(pictures, switched):
    views = SpectrogramViews(**switched)
    assert views.render(pictures, views.draw((3, 2), generator(0))).shape == (6, 1, 32, 48)


def test_crops_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="min_time 0.9 is above max_time 0.5: swap them"):
        SpectrogramViews(min_time=0.9, max_time=0.5)
