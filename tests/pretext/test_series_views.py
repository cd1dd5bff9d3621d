from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.series_views import SeriesViews, gaussian, hashed, uniform

STILL = SeriesViews(min_crop=1.0, warp=0.0, scale=0.0, noise=0.0, hide=0.0, drop=0.0)


def parameters(n, **changed):
    identity = {
        "crop": torch.tensor([0.0, 1.0]).repeat(n, 1), "warp": torch.zeros(n, 2), "hide": torch.zeros(n, 2),
        "scale": torch.zeros(n, 2), "drop": torch.zeros(n, 2), "noise": torch.ones(n, dtype=torch.int32),
    }  # fmt: skip
    return identity | {name: torch.as_tensor(value) for name, value in changed.items()}


@pytest.fixture
def series():
    return torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0)).cumsum(2)


def test_views_that_change_nothing(series):
    torch.testing.assert_close(STILL.render(series, STILL.draw((4,), generator(0))), series, atol=1e-4, rtol=1e-4)


def test_same_generator_same_views(series):
    a, b, c = (SeriesViews().draw((4, 2), generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a) and not torch.equal(a["crop"], c["crop"])
    first, again, other = (SeriesViews().render(series, drawn) for drawn in (a, b, c))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_all_first_views_come_before_all_second_ones(series):
    views, drawn = SeriesViews(), SeriesViews().draw((4, 2), generator(0))
    together = views.render(series, drawn)
    assert together.shape == (8, 3, 50)
    for view in range(2):
        alone = views.render(series, {name: value[:, view] for name, value in drawn.items()})
        torch.testing.assert_close(together[4 * view : 4 * view + 4], alone)


def test_crops_and_warps_against_numpys_interpolation(series):
    views = SeriesViews(scale=0, noise=0, hide=0, drop=0, min_crop=0.3, warp=0.4)
    drawn = views.draw((4,), generator(3))
    out = views.render(series, drawn)
    share = np.linspace(0, 1, 50)
    for i in range(4):
        (start, length), (strength, phase) = drawn["crop"][i].tolist(), drawn["warp"][i].tolist()
        assert start >= 0 and length >= 0.3 and start + length <= 1 + 1e-6 and 0 <= strength <= 0.4
        bend = np.sin(2 * np.pi * (share + phase)) - np.sin(2 * np.pi * phase)
        warped = share + strength / (2 * np.pi) * bend
        assert (np.diff(warped) > 0).all() and warped[0] == 0 and abs(warped[-1] - 1) < 1e-12
        for channel in range(3):
            expected = np.interp((start + length * warped) * 49, np.arange(50), series[i, channel].numpy())
            np.testing.assert_allclose(out[i, channel], expected, atol=2e-4)


def test_a_hidden_stretch_is_its_channels_mean(series):
    views = SeriesViews(min_crop=1.0, warp=0, scale=0, noise=0, drop=0, hide=0.5)
    out = views.render(series, parameters(4, hide=[[0.2, 0.3]] * 4))
    torch.testing.assert_close(out[..., :10], series[..., :10])
    torch.testing.assert_close(out[..., 25:], series[..., 25:])
    torch.testing.assert_close(out[..., 10:25], series.mean(2, keepdim=True).expand(4, 3, 15))
    start, length = views.draw((1000,), generator(0))["hide"].unbind(-1)
    assert length.min() < 0.01 and 0.49 < length.max() <= 0.5 and (start + length).max() <= 1


def test_channels_are_scaled_by_factors_of_the_promised_spread():
    series = torch.ones(4000, 5, 4)
    views = SeriesViews(min_crop=1.0, warp=0, noise=0, hide=0, drop=0, scale=0.3)
    logs = views.render(series, views.draw((4000,), generator(0))).log()
    assert (logs == logs[..., :1]).all()
    assert logs.std() == pytest.approx(0.3, abs=0.01) and logs.mean().abs() < 0.01
    assert np.abs(np.corrcoef(logs[..., 0].T) - np.eye(5)).max() < 0.06


@pytest.mark.parametrize("channels", [2, 7])
def test_channels_are_dropped_as_often_as_asked_and_never_all(channels):
    series = torch.randn(4000, channels, 8)
    views = SeriesViews(min_crop=1.0, warp=0, noise=0, hide=0, scale=0, drop=0.3)
    dropped = views.render(series, views.draw((4000,), generator(0))).std(2) < 1e-6
    assert not dropped.all(1).any()
    often = 0.3 * (1 if channels == 7 else 1 - 0.3 / 2)  # of two, the one that stays would have been dropped by chance
    assert dropped.float().mean() == pytest.approx(often, abs=0.02)
    one = views.render(series[:, :1], views.draw((4000,), generator(0)))
    torch.testing.assert_close(one, series[:, :1], atol=1e-5, rtol=1e-5)


def test_noise_is_standard_normal_and_white():
    views = SeriesViews(min_crop=1.0, warp=0, hide=0, scale=0, drop=0, noise=0.5)
    noise = views.render(torch.zeros(200, 4, 100), views.draw((200,), generator(0))) / 0.5
    assert stats.kstest(noise.flatten().numpy(), "norm").statistic < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    spectrum = torch.fft.rfft(noise, dim=2).abs().square().mean((0, 1))[1:-1] / 100
    assert spectrum.min() > 0.8 and spectrum.max() < 1.2
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2)):
        assert (noise * other).mean().abs() < 0.02


def test_numbers_made_of_two_are_uniform_and_independent_by_pairs():
    made = uniform(torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)), 40).numpy()
    for channel in (0, 1, 39):
        assert stats.kstest(made[:, channel], "uniform").statistic < 0.015
    for a, b in ((0, 1), (3, 5), (0, 39)):
        counts, _, _ = np.histogram2d(made[:, a], made[:, b], bins=5, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_hashes_differ_by_seed_and_place():
    made = hashed(torch.tensor([1, 2, 2**31 - 2], dtype=torch.int32), (3, 1000))
    assert made.min() >= 0 and made.max() < 1
    assert np.abs(np.corrcoef(made) - np.eye(3)).max() < 0.1
    assert gaussian(torch.tensor([0.0, 0.5, 1.0])).isfinite().all()


def test_views_are_fp32_under_autocast(series):
    with torch.autocast("cpu", torch.bfloat16):
        out = SeriesViews().render(series, SeriesViews().draw((4,), generator(0)))
    assert out.dtype == torch.float32
