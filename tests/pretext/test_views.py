from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from ssl_pipeline.pretext.labels import draw, generator
from ssl_pipeline.pretext.views import Views, blur, recolor


def parameters(n, **changed):
    identity = {
        "affine": torch.eye(2, 3).repeat(n, 1, 1),
        "color": torch.tensor([1, 1, 1, 0, 0.0]).repeat(n, 1),
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
    out = Views(color=0).render(photo, parameters(1, affine=flip))
    torch.testing.assert_close(out, reference.horizontal_flip(photo), atol=1e-5, rtol=0)
    quarter = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])  # the upper left quarter, enlarged
    out = Views(color=0).render(photo, parameters(1, affine=quarter))
    expected = reference.resized_crop(photo, 0, 0, 32, 32, [64, 64], antialias=False)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=0.02, rtol=0)


def test_color_against_torchvision(photo):
    def ours(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, grey=0.0):
        return recolor(photo, torch.tensor([[brightness, contrast, saturation, hue, grey]]))

    torch.testing.assert_close(ours(brightness=0.6), reference.adjust_brightness(photo, 0.6), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours(saturation=0.3), reference.adjust_saturation(photo, 0.3), atol=5e-3, rtol=0)
    torch.testing.assert_close(ours(grey=1.0), reference.rgb_to_grayscale(photo, 3), atol=5e-3, rtol=0)
    assert (
        ours(contrast=0.7) - reference.adjust_contrast(photo, 0.7)
    ).abs().mean() < 0.02  # our mean is over channels too
    assert (ours(hue=0.05) - reference.adjust_hue(photo, 0.05)).abs().mean() < 0.05  # YIQ approximates HSV


def test_blur_against_torchvision(photo):
    for sigma in (0.3, 0.5):
        expected = reference.gaussian_blur(photo, 5, [sigma, sigma])
        torch.testing.assert_close(blur(photo, torch.tensor([sigma])), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(channels):
    images = torch.rand(4, channels, 64, 64)
    out = Views().render(images, Views().draw((4,), generator(0)))
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
