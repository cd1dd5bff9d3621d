"""An encoder measured beside the chain: a champion on today's data, a control that was trained for comparison."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.evaluate.result import Metrics
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe


def measured(recipe: Recipe, pack: Pack, encoder: Encoder, folder: Path, settings: Any) -> Metrics:
    """By the recipe's protocol, with its features embedded anew; `folder` is the encoder's."""
    features = {split: embed(encoder, pack.samples(split), recipe.pretrain) for split in SPLITS}
    evaluation = import_module(f"ssl_pipeline.evaluate.{settings.kind}")
    return evaluation.own(recipe, pack, encoder, features, folder, settings).metrics
