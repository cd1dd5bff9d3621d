"""The encoder that every evaluation stands a trained one beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ssl_pipeline.encoders.encoder import build

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.recipe import Recipe


def fresh_encoder(recipe: Recipe, pack: Pack, seed: int) -> Any:
    """The recipe's encoder with weights drawn by `seed`, in evaluation mode, on the CPU. The caller's generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(recipe.encoder.without_weights(), pack.given).eval()
