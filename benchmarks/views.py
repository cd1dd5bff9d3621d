"""Two random views of an image, microseconds an image: `python -m benchmarks.views [--json]`, one minute.

Ours are batched matrix products in bf16 on all cores; Lightly's and torchvision's work on one image after the other, on one
core, as a loader's worker does: their rate is multiplied by the number of cores.

`python -m benchmarks.views --picture docs/views.png` draws each operator beside torchvision's.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from benchmarks.race import Turn, race, repeat, report
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.views import Views
from ssl_pipeline.pretrain.compute import pick_device

BATCH = 64


def main(as_json: bool) -> None:
    cores, rows = len(os.sched_getaffinity(0)), []
    for side in (32, 96, 224):
        contenders = {
            name: partial(make, side)
            for name, make in {"ours": ours, "lightly": lightly, "torchvision": torchvision}.items()
        }
        rates = race(contenders, rounds=3, seconds=2)
        rates = {name: rate * (1 if name == "ours" else cores) for name, rate in rates.items()}
        rows += [
            {
                "peer": peer, "image_size": side, "microseconds": 1e6 / rates["ours"],
                "peer_microseconds": 1e6 / rates[peer], "speedup": rates["ours"] / rates[peer],
            }
            for peer in ("lightly", "torchvision")
        ]  # fmt: skip
    report("Two views of an image", rows, as_json)


def photo(side: int) -> Image.Image:
    return Image.fromarray(load_sample_images().images[1]).crop((100, 0, 527, 427)).resize((side, side))


def pixels(side: int) -> torch.Tensor:
    return torch.from_numpy(np.array(photo(side))).permute(2, 0, 1)


def ours(side: int) -> Turn:
    pick_device("cpu")
    images, views = pixels(side).repeat(BATCH, 1, 1, 1), Views()
    chance = generator(0)

    def step() -> None:
        drawn = views.draw((BATCH, 2), chance)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            views.render(images.bfloat16() / 255, drawn)

    return repeat(step, BATCH)


def lightly(side: int) -> Turn:
    torch.set_num_threads(1)
    transform = SimCLRTransform(
        input_size=side, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.5 if side >= 64 else 0.0,
        sigmas=(0.1 * side / 224, 2.0 * side / 224),
    )  # fmt: skip
    image = photo(side)
    return repeat(lambda: transform(image), 1)


def torchvision(side: int) -> Turn:
    torch.set_num_threads(1)
    blur = [v2.RandomApply([v2.GaussianBlur(max(3, side // 20 * 2 + 1), (0.1 * side / 224, 2.0 * side / 224))], 0.5)]
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(side, (0.2, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
            *(blur if side >= 64 else []), v2.ToDtype(torch.float32, scale=True),
        ]
    )  # fmt: skip
    image = pixels(side)
    return repeat(lambda: (transform(image), transform(image)), 1)


def draw_picture(path: Path) -> None:
    """One column an operator: ours, torchvision's, and the difference."""
    side = 128
    image = pixels(side)[None].float() / 255
    same = {"affine": torch.eye(2, 3)[None], "color": torch.tensor([[1, 1, 1, 0, 0, 0.0]]), "blur": torch.zeros(1)}
    quarter = torch.tensor([[[0.5, 0, -0.25], [0, 0.5, 0.25]]])
    angle = torch.tensor(30.0).deg2rad()
    turn = torch.tensor([[[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]])
    cropped = reference.resized_crop(image, 48, 16, 64, 64, [side, side], antialias=True)

    def color(place: int, value: float) -> dict[str, torch.Tensor]:
        changed = same["color"].clone()
        changed[0, place] = value
        return same | {"color": changed}

    plain, colored = Views(color=0, blur=False), Views(blur=False)
    rows = {
        "crop and resize": (plain, same | {"affine": quarter}, cropped),
        "flip": (plain, same | {"affine": torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])}, reference.horizontal_flip(image)),
        "rotation": (Views(color=0, blur=False, rotate_degrees=45), same | {"affine": turn},
                     reference.rotate(image, 30, reference.InterpolationMode.BILINEAR)),
        "blur": (Views(color=0, blur=True), same | {"blur": torch.tensor([1.1 / side])},
                 reference.gaussian_blur(image, 9, [1.1, 1.1])),
        "brightness": (colored, color(0, 0.6), reference.adjust_brightness(image, 0.6)),
        "contrast": (colored, color(1, 0.5), reference.adjust_contrast(image, 0.5)),
        "saturation": (colored, color(2, 1.4), reference.adjust_saturation(image, 1.4)),
        "hue": (colored, color(3, 0.1), reference.adjust_hue(image, 0.1)),
        "greyscale": (colored, color(4, 1.0), reference.rgb_to_grayscale(image, 3)),
        "solarise": (Views(color=0, blur=False, solarize=1), color(5, 1.0), reference.solarize(image, 0.5)),
    }  # fmt: skip
    figure = Figure(figsize=(1.6 * len(rows), 5.2), layout="constrained")
    axes = figure.subplots(3, len(rows))
    for column, (name, (views, parameters, expected)) in enumerate(rows.items()):
        got = views.render(image, parameters).clamp(0, 1)
        error = (got - expected).abs()
        for axis, shown in zip(axes[:, column], (got, expected, (4 * error).clamp(0, 1)), strict=True):
            axis.imshow(shown[0].permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
        axes[0, column].set_title(name, fontsize=9)
        axes[2, column].set_xlabel(f"mean {error.mean():.4f}", fontsize=8)
    for axis, title in zip(axes[:, 0], ("ours", "torchvision", "difference x 4"), strict=True):
        axis.set_ylabel(title, fontsize=9)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    if "--picture" in sys.argv:
        draw_picture(Path(sys.argv[-1]))
    else:
        main("--json" in sys.argv)
