"""The weights, and how to build the network: what `ssl_pipeline.load_encoder` opens, to go on training or to embed with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", (), ""
TOLERANCE = 0.0
FILES = ("encoder.safetensors", "encoder.json", "tokenizer.json", "vocabulary.parquet")
"""The last two turn a text, or an item's identifier, into the numbers that the encoder takes."""


def write(found: Registered, output: Path) -> None:
    output.mkdir()
    for name in FILES:
        if (found.folder / name).exists():
            shutil.copyfile(found.folder / name, output / name)


def compare(found: Registered, output: Path) -> Compared:
    from ssl_pipeline import load_encoder
    from ssl_pipeline.export.deployed import DeployedEncoder
    from ssl_pipeline.export.export import deployed_pairs

    yield from deployed_pairs(found, DeployedEncoder(load_encoder(output)))


def opens(found: Registered, path: str) -> str:
    takes = found.encoder.takes
    return f"""\
from ssl_pipeline import load_encoder

encoder = load_encoder({path!r})
embeddings = encoder(encoder.read({{{takes!r}: stored}}))
"""
