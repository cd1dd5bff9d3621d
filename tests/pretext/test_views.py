from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from ssl_pipeline.pretext.labels import draw, generator
from ssl_pipeline.pretext.views import Views, recolor


def parameters(n, **changed):
    identity = {
        "affine": torch.eye(2, 3).repeat(n, 1, 1),
        "color": torch.tensor([1, 1, 1, 0, 0, 0.0]).repeat(n, 1),
        "blur": torch.zeros(n),
    }
    return identity | changed


@pytest.fixture
def photo():
    from sklearn.datasets import load_sample_images

    image = Image.fromarray(load_sample_images().images[0]).resize((64, 64))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def test_identity_parameters_change_nothing(photo):
    out = Views(color=0.5, blur=True).render(photo, parameters(1))
    torch.testing.assert_close(out, photo, atol=2e-3, rtol=0)


def test_same_generator_same_views():
    a, b = (Views().draw((5, 2), generator(3, "x")) for _ in range(2))
    for name in a:
        assert torch.equal(a[name], b[name])
    assert not torch.equal(a["affine"], Views().draw((5, 2), generator(4, "x"))["affine"])


def test_crops_stay_inside_and_keep_their_share_of_the_area():
    affine = Views(min_scale=0.3, rotate_degrees=0).draw((2000,), generator(0))["affine"]
    half = affine[:, :, :2].abs().sum(2)
    assert (half + affine[:, :, 2].abs() <= 1 + 1e-5).all()
    area = half.prod(1)
    assert area.min() > 0.29 and area.max() <= 1


def test_flip_and_crop_against_torchvision(photo):
    flip = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    out = Views(color=0, blur=False).render(photo, parameters(1, affine=flip))
    torch.testing.assert_close(out, reference.horizontal_flip(photo), atol=1e-5, rtol=0)
    quarter = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])  # the upper left quarter
    for side in (64, 32, 24, 8):  # twice as large, as large, smaller
        out = Views(color=0, blur=False).render(photo, parameters(1, affine=quarter), side)
        expected = reference.resized_crop(photo, 0, 0, 32, 32, [side, side], antialias=True)
        # at its inner borders torchvision repeats the crop's edge where we look at the pixels beyond it
        torch.testing.assert_close(
            out[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=0.02 + 0.1 * (side < 24), rtol=0
        )
        whole = Views(color=0, blur=False).render(photo, parameters(1), side)
        torch.testing.assert_close(whole, reference.resize(photo, [side, side], antialias=True), atol=1e-5, rtol=0)


def test_a_crop_is_the_same_by_matrices_and_by_grid_sample(photo):
    images, views = photo.repeat(8, 1, 1, 1), Views(color=0, blur=False, min_scale=0.3)
    drawn = views.draw((8,), generator(5))
    by_grid = Views(color=0, blur=False, rotate_degrees=1).render(images, drawn)  # the draw holds no rotation
    torch.testing.assert_close(views.render(images, drawn), by_grid, atol=1e-4, rtol=0)


def test_rotation_against_torchvision(photo):
    angle = torch.tensor(30.0).deg2rad()
    turn = torch.tensor([[[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]])
    out = Views(color=0, blur=False, rotate_degrees=45).render(photo, parameters(1, affine=turn))
    expected = reference.rotate(photo, 30, reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(out[..., 20:44, 20:44], expected[..., 20:44, 20:44], atol=1e-4, rtol=0)


def jitter(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, grey=0.0, solarize=0.0):
    return torch.tensor([[brightness, contrast, saturation, hue, grey, solarize]])


def test_color_against_torchvision(photo):
    def ours(**factors):
        return recolor(photo, photo.mean((2, 3)), jitter(**factors)).clamp(0, 1)

    torch.testing.assert_close(ours(brightness=0.6), reference.adjust_brightness(photo, 0.6), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours(contrast=0.7), reference.adjust_contrast(photo, 0.7), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours(saturation=0.3), reference.adjust_saturation(photo, 0.3), atol=5e-3, rtol=0)
    torch.testing.assert_close(ours(grey=1.0), reference.rgb_to_grayscale(photo, 3), atol=5e-3, rtol=0)
    for turn in (-0.1, -0.05, 0.05, 0.1):  # YIQ approximates HSV, and turns the same way
        errors = [(ours(hue=hue) - reference.adjust_hue(photo, turn)).abs().mean() for hue in (turn, -turn)]
        assert errors[0] < abs(turn) and errors[0] < 0.7 * errors[1]
    together = reference.adjust_saturation(reference.adjust_contrast(reference.adjust_brightness(photo, 0.8), 0.9), 0.7)
    torch.testing.assert_close(ours(brightness=0.8, contrast=0.9, saturation=0.7), together, atol=1e-2, rtol=0)


def test_blur_and_solarize_against_torchvision(photo):
    for sigma in (0.3, 0.5):
        out = Views(color=0, blur=True).render(photo, parameters(1, blur=torch.tensor([sigma / 64])))
        torch.testing.assert_close(out, reference.gaussian_blur(photo, 5, [sigma, sigma]), atol=2e-3, rtol=0)
    out = Views(color=0, blur=False, solarize=0.2).render(photo, parameters(1, color=jitter(solarize=1)))
    torch.testing.assert_close(out, reference.solarize(photo, 0.5), atol=1e-5, rtol=0)


def test_bf16_views_are_fp32_views_to_two_digits(photo):
    images, drawn = photo.repeat(16, 1, 1, 1), Views().draw((16,), generator(1))
    exact = Views().render(images, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = Views().render(images, drawn)
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.03 and (exact - rounded).abs().mean() < 3e-3


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(channels):
    images = torch.rand(4, channels, 64, 64)
    out = Views(solarize=0.5).render(images, Views(solarize=0.5).draw((4,), generator(0)))
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("task", ["rotation", "inpainting", "simclr"])
def test_labels_are_decided_by_seed_split_and_epoch(make_recipe, task):
    recipe = make_recipe(task)

    def labels(*place):
        return draw(recipe.pretext, recipe.encoder, 20, *place)

    base = labels(0, "train", 0)
    assert all(torch.equal(base[k], v) for k, v in labels(0, "train", 0).items())
    for other in (labels(1, "train", 0), labels(0, "validation", 0), labels(0, "train", 1)):
        assert not torch.equal(base["affine"], other["affine"])
