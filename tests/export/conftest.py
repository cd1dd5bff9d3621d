"""Encoders of every kind with weights that are not fresh, as a registered version has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.export.export import Registered
from ssl_pipeline.pretext.packing.tokens import special_in, train_tokenizer

TEXTS = ["The quick brown fox jumps over 2 lazy dogs; they don't mind.", "A slow cat sleeps.", "Foxes are quick."]


def text_facts() -> dict[str, Any]:
    tokenizer = train_tokenizer(iter(TEXTS * 9), 320)
    return {
        "vocabulary": tokenizer.get_vocab_size(),
        "special": special_in(tokenizer)._asdict(),
        "tokenizer": tokenizer.to_str(),
    }


@pytest.fixture(scope="session")
def facts() -> dict[str, dict[str, Any]]:
    """By the encoder's kind."""
    pixels = {"channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    text = text_facts()
    return {
        "image": pixels, "video": pixels, "audio": {"mean": -12.0, "std": 3.0}, "text": text,
        "image_text": pixels | {"text": text}, "series": {"mean": [0.1, 2.0], "std": [1.0, 3.0]},
        "interactions": {"items": 30},
    }  # fmt: skip


@pytest.fixture
def registered(tmp_path: Path, facts: dict[str, dict[str, Any]]) -> Callable[..., Registered]:
    """An encoder as registration leaves it; the arguments are what a recipe says of it."""

    def make(**settings: Any) -> Registered:
        part = encoders.settings_of(settings)
        torch.manual_seed(0)
        encoder = encoders.build(part, facts[part.kind])
        for module in encoder.modules():  # statistics that a batch norm without training does not have
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
        for parameter in encoder.parameters():
            if parameter.ndim == 1:  # fresh biases are all 0, and scales all 1: one would do for another
                parameter.data += 0.5 * torch.rand_like(parameter)
        folder = tmp_path / "extra_files"
        folder.mkdir()
        encoders.save(encoder.eval(), part, facts[part.kind], folder)
        return Registered("models:/tiny/1", folder, encoders.load(folder))

    return make


def embeddings_of(pictures: torch.Tensor, code: str, folder: Path, absent: set[str]) -> torch.Tensor:
    """What the code makes of the pictures, in a process into which these packages do not come."""
    torch.save(pictures, folder / "pictures.pt")
    before = "import sys\nimport torch\npictures = torch.load('pictures.pt')\n"
    after = f"assert not {absent} & set(sys.modules)\ntorch.save(embeddings, 'embeddings.pt')\n"
    subprocess.run([sys.executable, "-c", before + code + after], cwd=folder, check=True)
    return torch.load(folder / "embeddings.pt")
