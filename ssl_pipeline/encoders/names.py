"""Which backbones there are, known without importing torch, so that a typo is refused when definitions load."""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

from ssl_pipeline.part import did_you_mean


@functools.cache
def backbones() -> frozenset[str]:
    """The names of all models that the installed timm registers, read from its sources."""
    spec = importlib.util.find_spec("timm")
    assert spec and spec.origin
    names: set[str] = set()
    for source in (Path(spec.origin).parent / "models").glob("*.py"):
        names.update(re.findall(r"^@register_model\s+def (\w+)", source.read_text(), flags=re.MULTILINE))
    return frozenset(names)


def closest_backbones(name: str) -> str | None:
    """None where timm has `name` (a pretrained tag after a dot is allowed), otherwise a hint at near names."""
    return None if name.split(".")[0] in backbones() else did_you_mean(name, backbones())


def patch_size_in_name(name: str) -> int | None:
    """16 for `vit_small_patch16_224`; None where the name has no patch."""
    found = re.search(r"_patch(\d+)", name)
    return int(found.group(1)) if found else None


SMALL = 96
"""Under this side in pixels `stem: auto` means a small stem."""


def fine_patch(image_size: int) -> int:
    """The smallest patch that divides the image and leaves at most eight a side."""
    return next(p for p in range(1, image_size + 1) if image_size % p == 0 and p * 8 >= image_size)


def fine_patch_of(shape: tuple[int, int]) -> int:
    """The smallest patch that divides both sides and leaves at most eight along the shorter one; the largest that divides
    them where none does."""
    common = math.gcd(*shape)
    return next((p for p in range(1, common + 1) if common % p == 0 and p * 8 >= min(shape)), common)


def token_patch(encoder: Any) -> int | None:
    """The side of a patch token of a vision transformer as the recipe describes it; None for other architectures."""
    named = patch_size_in_name(encoder.backbone)
    if named is None and "vit" not in encoder.backbone:
        return None
    if given := encoder.options.get("patch_size"):
        return int(given)
    side = min(encoder.shape)
    small = encoder.stem in ("small", "half") or (encoder.stem == "auto" and side < SMALL)
    return fine_patch(side) if named and small else named
