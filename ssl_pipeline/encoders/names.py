"""Which backbones there are, known without importing torch, so that a typo is refused when definitions load."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

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
