"""Random views of images, made on the device in batches: one affine map, one colour matrix, one separable blur.

`draw` makes the parameters from a generator, on the CPU; `render` applies them. A view is thus decided before any image is
loaded, and the label table can show it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from ssl_pipeline.part import Part, late

torch = late("torch")
F = late("torch.nn.functional")

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Views(Part):
    """How strongly views differ from their image."""

    min_scale: float = Field(0.2, gt=0, le=1)
    """Smallest share of the image's area that a crop keeps; the largest is the whole."""
    flip: bool = True
    """Mirror half of the views left to right; switch off where that changes the meaning, as for letters."""
    rotate_degrees: float = Field(0.0, ge=0, le=180)
    """Largest rotation either way."""
    color: float = Field(0.5, ge=0, le=1)
    """Strength of brightness, contrast, saturation and hue jitter (SimCLR's s); 0 switches it and greyscale off."""
    blur: bool | None = None
    """Gaussian blur on half of the views; by default for images of 64 pixels and more."""

    def draw(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Parameters of `shape` views: `affine [*shape, 2, 3]` (output to input, in -1..1), `color [*shape, 5]`
        (brightness, contrast, saturation factors, hue in turns, greyscale 0 or 1), `blur [*shape]` (sigma as a share of
        the image's side, 0 for none)."""

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(shape).uniform_(low, high, generator=generator)

        area = uniform(self.min_scale, 1.0)
        ratio = torch.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if self.flip else torch.ones(shape)
        angle = uniform(-1, 1) * math.radians(self.rotate_degrees)
        cos, sin = angle.cos(), angle.sin()
        affine = torch.stack(
            [
                torch.stack([cos * width * mirror, -sin * height, x], -1),
                torch.stack([sin * width * mirror, cos * height, y], -1),
            ],
            -2,
        )
        s, jittered, grey = self.color, uniform(0, 1) < 0.8, uniform(0, 1) < 0.2
        color = torch.stack(
            [
                torch.where(jittered, uniform(1 - 0.8 * s, 1 + 0.8 * s), 1.0),
                torch.where(jittered, uniform(1 - 0.8 * s, 1 + 0.8 * s), 1.0),
                torch.where(jittered, uniform(1 - 0.8 * s, 1 + 0.8 * s), 1.0),
                torch.where(jittered, uniform(-0.2 * s, 0.2 * s), 0.0),
                (grey & (s > 0)).float(),
            ],
            -1,
        )
        # SimCLR: sigma of 0.1 to 2 pixels at 224
        blur = torch.where(uniform(0, 1) < 0.5, uniform(0.1 / 224, 2.0 / 224), 0.0)
        return {"affine": affine, "color": color, "blur": blur}

    def render(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """images `[n, channels, side, side]` in 0..1, parameters `[n, ...]` -> views of the same shape and range."""
        grid = F.affine_grid(parameters["affine"], list(images.shape), align_corners=False)
        views = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if self.color > 0:
            views = recolor(views, parameters["color"])
        if self.blur or (self.blur is None and images.shape[-1] >= 64):
            views = blur(views, parameters["blur"] * images.shape[-1])
        return views


TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def recolor(images: Tensor, color: Tensor) -> Tensor:
    """Brightness, contrast about the image's mean, and for RGB saturation, hue and greyscale, as one affine map a sample.
    Hue turns the chroma plane of YIQ, which approximates a rotation in HSV."""
    brightness, contrast, saturation, hue, grey = color.to(images.dtype).unbind(-1)
    if images.shape[1] == 3:
        to_yiq = torch.tensor(TO_YIQ, device=images.device, dtype=torch.float32)
        saturation = saturation * (1 - grey)
        angle = 2 * math.pi * hue
        turn = torch.zeros(len(images), 3, 3, device=images.device, dtype=torch.float32)
        turn[:, 0, 0] = 1
        turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
        turn[:, 1, 2], turn[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
        matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq  # [n, 3, 3]
        images = torch.einsum("nij,njhw->nihw", matrix.to(images.dtype), images)
    gain = (brightness * contrast).view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    offset = (brightness * (1 - contrast)).view(-1, 1, 1, 1) * mean
    return (images * gain + offset).clamp(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma in pixels a sample `[n]`, as two one-dimensional convolutions; 0 leaves it unchanged."""
    n, channels, height, width = images.shape
    radius = max(1, math.ceil(3 * 2.0 / 224 * width))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma.to(images.dtype).clamp(min=1e-3)[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [n * channels, taps]
    flat = F.pad(images.reshape(1, n * channels, height, width), [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * channels)
    return F.conv2d(flat, kernel[:, None, :, None], groups=n * channels).reshape(images.shape)
