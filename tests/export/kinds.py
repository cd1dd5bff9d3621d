"""What a recipe says of a small encoder of each kind."""

from __future__ import annotations

from typing import Any

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
RESNET: dict[str, Any] = {"backbone": "resnet18", "options": NARROW}
TEXT: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "length": 24}

VIT: dict[str, Any] = {"backbone": "test_vit", "options": {"patch_size": 4}}

KINDS: dict[str, dict[str, Any]] = {
    "resnet": {"kind": "image", "image_size": 28, "stem": "half"} | RESNET,
    "vit": {"kind": "image", "image_size": 16} | VIT,
    "audio": {"kind": "audio", "seconds": 0.32, "mels": 32, "sample_rate": 8000} | RESNET,
    "video": {"kind": "video", "image_size": 16, "frames": 3} | RESNET,
    "bert": {"kind": "text"} | TEXT,
    "modernbert": {"kind": "text", "architecture": "modernbert"} | TEXT,
    "image_text": {"kind": "image_text", "dim": 16, "image": {"image_size": 16} | RESNET, "text": TEXT},
    "series": {"kind": "series", "length": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
    "sasrec": {"kind": "interactions", "length": 10, "width": 16},
    "bert4rec": {"kind": "interactions", "length": 10, "width": 16, "causal": False},
}
