"""Random views of images, made on the device in batches: crop, resize, flip and blur as two matrix products, colour as a third.

`draw` makes the parameters from a generator, on the CPU; `render` applies them. A view is thus decided before any image is
loaded, and the label table can show it.

Resampling along one axis is linear: out = A x, with two to a few weights in a row of A. A view without rotation is thus
A_y X A_x^T for every channel (torchvision's antialiased bilinear resize of a crop with fractional borders); a flip runs
through A's columns backwards, and a Gaussian blur multiplies A from the left. Brightness, contrast, saturation, hue and
greyscale are affine in a pixel's channels, so they are one matrix and one offset a view, with one clamp at the end where
torchvision clamps after each. Checked operator for operator against torchvision in the tests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ssl_pipeline.part import OfKind, late

torch = late("torch")
F = late("torch.nn.functional")

if TYPE_CHECKING:
    from torch import Generator, Tensor, dtype

BLUR_MIN, BLUR_MAX = 0.1 / 224, 2.0 / 224
"""SimCLR's sigma of 0.1 to 2 pixels at 224, as shares of the side."""


class Views(OfKind):
    """How strongly views differ from their image."""

    kind: Literal["image"] = "image"
    min_scale: float = Field(0.2, gt=0, le=1)
    """Smallest share of the image's area that a crop keeps."""
    max_scale: float = Field(1.0, gt=0, le=1)
    """Largest share."""
    flip: bool = True
    """Mirror half of the views left to right; switch off where that changes the meaning, as for letters."""
    rotate_degrees: float = Field(0.0, ge=0, le=180)
    """Largest rotation either way."""
    color: float = Field(0.5, ge=0, le=1)
    """Strength of brightness, contrast, saturation and hue jitter (SimCLR's s); 0 switches it and greyscale off."""
    blur: bool | None = None
    """Gaussian blur on half of the views; by default for images of 64 pixels and more."""
    solarize: float = Field(0.0, ge=0, le=1)
    """Share of the views whose bright half is inverted (BYOL, DINO)."""

    @model_validator(mode="after")
    def scales_are_in_order(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} is above max_scale {self.max_scale}: swap them")
        return self

    def draw(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Parameters of `shape` views: `affine [*shape, 2, 3]` (output to input, in -1..1), `color [*shape, 6]`
        (brightness, contrast, saturation factors, hue in turns, greyscale 0 or 1, solarised 0 or 1), `blur [*shape]`
        (sigma as a share of the image's side, 0 for none)."""

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(shape).uniform_(low, high, generator=generator)

        area = uniform(self.min_scale, self.max_scale)
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
                (uniform(0, 1) < self.solarize).float(),
            ],
            -1,
        )
        blur = torch.where(uniform(0, 1) < 0.5, uniform(BLUR_MIN, BLUR_MAX), 0.0)
        return {"affine": affine, "color": color, "blur": blur}

    def render(self, images: Tensor, parameters: dict[str, Tensor], side: int | None = None) -> Tensor:
        """images `[n, channels, height, width]` in 0..1, parameters `[n, ...]` -> `[n, channels, side, side]` in 0..1, as
        large as the image unless `side` is given. Parameters `[n, k, ...]` give `[k * n, ...]`: all first views, then all
        second ones. In bf16 under bf16 autocast, where everything after it is, else fp32."""
        device, side = images.device.type, side or images.shape[-1]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        if parameters["affine"].ndim == 4:
            parameters = {name: value.transpose(0, 1).flatten(0, 1) for name, value in parameters.items()}
        affine = parameters["affine"]
        with torch.autocast(device, enabled=False):
            if self.rotate_degrees > 0:
                images = rotate(images.float().repeat(len(affine) // len(images), 1, 1, 1), affine, side)
                affine = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
            blurred = self.blur or (self.blur is None and side >= 64)
            sigma = parameters["blur"] * side if blurred else None
            views, mean = resample(images.to(dtype), affine, sigma, side)
            if self.color > 0:
                views = recolor(views, mean, parameters["color"])
            views = views.clamp(0, 1)
            if self.solarize > 0:
                views = torch.where(
                    (views >= 0.5) & (parameters["color"][:, 5].view(-1, 1, 1, 1) > 0), 1 - views, views
                )
        return views


def resample(images: Tensor, affine: Tensor, sigma: Tensor | None, side: int) -> tuple[Tensor, Tensor]:
    """images `[n, channels, height, width]`, affine without rotation `[k * n, 2, 3]`, blur's sigma in output pixels `[k * n]`
    -> `[k * n, channels, side, side]` laid out channels last, and its mean colour `[k * n, channels]` in fp32."""
    (n, channels, height, width), k = images.shape, len(affine) // len(images)
    across = weights(affine[:, 0, 0], affine[:, 0, 2], sigma, side, width, images.dtype)  # [k * n, side, width]
    down = weights(affine[:, 1, 1], affine[:, 1, 2], sigma, side, height, images.dtype)
    across = (
        across.view(k, n, side, width).permute(1, 3, 0, 2).reshape(n, width, k * side)
    )  # a row is read once for k views
    narrow = torch.bmm(images.reshape(n, channels * height, width), across)
    narrow = narrow.view(n, channels, height, k, side).permute(3, 0, 2, 4, 1).reshape(k * n, height, side * channels)
    views = torch.bmm(down, narrow).view(k * n, side, side, channels)
    return views.permute(0, 3, 1, 2), views.mean((1, 2), dtype=torch.float32)


def weights(scale: Tensor, offset: Tensor, sigma: Tensor | None, size: int, source: int, dtype: dtype) -> Tensor:
    """The matrices `[n, size, source]` that crop and resize along one axis: output x in -1..1 shows input scale * x + offset.

    A row is a triangle about the pixel's place in the input, as wide as the step between two rows but at least two
    pixels (bilinear where it enlarges, antialiased where it shrinks). Few weights a row differ from 0, so only these are
    computed. With `sigma [n]`, a Gaussian over rows is multiplied from the left, rows reflected at the ends.
    """
    device, n = scale.device, len(scale)
    radius = min(size - 1, math.ceil(3 * BLUR_MAX * size)) if sigma is not None else 0
    rows = torch.arange(-radius, size + radius, device=device)
    rows = torch.where(rows < 0, -rows, torch.where(rows >= size, 2 * (size - 1) - rows, rows))
    center = ((scale[:, None] * ((2 * rows + 1) / size - 1) + offset[:, None] + 1) * source - 1) / 2  # [n, rows]
    reach = (scale.abs() * source / size).clamp(min=1)[:, None]
    count = min(source, 2 * math.ceil(max(1, source / size)))
    first = ((center - reach).floor() + 1).clamp(0, source - count)
    columns = first[..., None] + torch.arange(count, device=device)  # [n, rows, count]
    values = (1 - (columns - center[..., None]).abs() / reach[..., None]).clamp(min=0)
    values = (values / values.sum(-1, keepdim=True)).to(dtype)
    matrix = torch.zeros(n, len(rows), source, dtype=dtype, device=device).scatter_(2, columns.long(), values)
    if sigma is None:
        return matrix
    taps = torch.arange(-radius, radius + 1, device=device)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(dtype)
    # row i of the Gaussian holds the kernel from column i on: every row is a window of the padded kernel
    gaussian = F.pad(kernel, (size - 1, size - 1)).unfold(1, size + 2 * radius, 1).flip(1)
    return torch.bmm(gaussian, matrix)


def rotate(images: Tensor, affine: Tensor, side: int) -> Tensor:
    """`[n, channels, height, width]`, any affine maps `[n, 2, 3]` -> `[n, channels, side, side]`, bilinear."""
    grid = F.affine_grid(affine, [len(images), images.shape[1], side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
RED, GREEN, BLUE = TO_YIQ[0].tolist()
"""Their shares in lightness."""
FROM_YIQ = np.linalg.inv(TO_YIQ)
LIGHT, CHROMA, TURN = (
    matrix.flatten().tolist()
    for matrix in (
        np.outer(FROM_YIQ[:, 0], TO_YIQ[0]),
        FROM_YIQ[:, 1:] @ TO_YIQ[1:],
        FROM_YIQ[:, 1:] @ [[0, 1], [-1, 0]] @ TO_YIQ[1:],
    )
)
"""What a 3x3 matrix on RGB is made of: it keeps lightness, keeps chroma, turns chroma by a right angle from red to yellow.
Plain numbers: a small tensor that is moved to a GPU makes the processor wait for it."""


def recolor(images: Tensor, mean: Tensor, color: Tensor) -> Tensor:
    """Brightness, contrast about the grey mean, and for RGB saturation, hue and greyscale, of images `[n, channels, side,
    side]` with mean colour `[n, channels]`, unclamped. Hue turns the chroma plane of YIQ, which approximates a rotation in
    HSV; grey is not changed by it nor by saturation, so the order of the five does not matter."""
    brightness, contrast, saturation, hue, grey = color[:, :5].float().unbind(-1)
    gain, lift = brightness * contrast, brightness * (1 - contrast)
    n, channels, height, width = images.shape
    if channels != 3:
        offset = lift * mean.mean(1)
        return images * gain.to(images.dtype).view(-1, 1, 1, 1) + offset.to(images.dtype).view(-1, 1, 1, 1)
    saturation, angle = gain * saturation * (1 - grey), 2 * math.pi * hue
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    entries = [gain * keep + cos * chroma + sin * turn for keep, chroma, turn in zip(LIGHT, CHROMA, TURN, strict=True)]
    matrix = torch.stack(entries, -1).view(n, 3, 3).to(images.dtype)
    offset = (lift * (RED * mean[:, 0] + GREEN * mean[:, 1] + BLUE * mean[:, 2])).to(images.dtype)
    pixels = images.permute(0, 2, 3, 1).reshape(n, height * width, 3)
    mixed = torch.baddbmm(offset.view(-1, 1, 1), pixels, matrix.transpose(1, 2))
    return mixed.view(n, height, width, 3).permute(0, 3, 1, 2)
