"""What an encoder is, for every modality: stored numbers in, one embedding a sample out; made, saved and read back."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import write_json

if TYPE_CHECKING:
    import numpy as np

    from ssl_pipeline.encoders.settings import EncoderPart

Batch = dict[str, Tensor]
"""Samples as the pack stores them, by the name of each array, `[batch, ...]`."""


class Encoder(nn.Module):
    """Base of all encoders. Whatever it needs beyond its settings and the pack's facts is in its weights, so that who has
    these has the preprocessing."""

    takes: str
    """The array of a batch that the deployed model is given."""
    dim: int
    """Of the embedding."""
    image_size: int = 0
    """Side in pixels, where it sees square images."""

    def read(self, batch: Batch) -> Any:
        """Stored numbers -> what tasks see and `forward` takes; no gradients."""
        return batch[self.takes]

    def forward(self, inputs: Any) -> Tensor:
        """-> embedding `[batch, dim]`"""
        raise NotImplementedError

    def tokens(self, inputs: Any) -> Tensor:
        """-> a transformer's last tokens `[batch, places, width]`, zero at padding. Raises PipelineError where there are none."""
        raise PipelineError(
            f"{type(self).__name__} has no tokens: take attentive out of the classification's probes, or use a transformer"
        )

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        """Random samples in stored form, on the CPU: to export, to compare, to count operations."""
        raise NotImplementedError

    def sketch(self, inputs: Any) -> np.ndarray:
        """What a person sees of inputs: images `[batch, channels, height, width]` in 0..1."""
        return inputs.float().clamp(0, 1).cpu().numpy()

    def show(self, batch: Batch) -> np.ndarray | list[str]:
        """What a person sees of stored samples: images, or texts."""
        return self.sketch(self.read(batch))

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, over which FSDP2 spreads the weights."""
        raise NotImplementedError

    extra_files: frozenset[str] = frozenset()
    """Names of what `save_extra` writes; it is registered beside the model."""

    def save_extra(self, folder: Path) -> None:
        """Writes what other libraries open, if there is such a form."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def build(settings: EncoderPart, facts: dict[str, Any]) -> Encoder:
    """The encoder that a recipe's `encoder` part describes, on the CPU, with fresh weights from torch's global generator
    unless pretrained ones are asked for. `facts` are the pack's.

    Raises PipelineError for data too small for the network, options it does not take, or weights that do not fit.
    """
    return import_module(f"ssl_pipeline.encoders.{settings.kind}").build(settings, facts)


def save(encoder: Encoder, settings: EncoderPart, facts: dict[str, Any], folder: Path) -> None:
    """Writes `encoder.safetensors` and, last and atomically, `encoder.json` that says how to build it."""
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, folder / "encoder.safetensors"
    )
    encoder.save_extra(folder)
    config = settings.without_weights().model_dump(mode="json")
    write_json(folder / "encoder.json", {"encoder": config, "facts": facts, "dim": encoder.dim})


HEAD = "head.safetensors"


def save_head(weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a pretext task's head beside the encoder."""
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / HEAD)


def load_head(head: nn.Module, folder: Path) -> nn.Module:
    """Fills a fresh head with what `save_head` wrote. Raises PipelineError where it is missing or another one's."""
    try:
        head.load_state_dict(load_file(folder / HEAD))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PipelineError(f"head in {folder}: cannot be read ({error}); delete that folder and run again") from error
    return head.eval()


def load(folder: Path) -> Encoder:
    """The encoder that `save` wrote, in evaluation mode."""
    try:
        record = json.loads((folder / "encoder.json").read_text())
        weights = load_file(folder / "encoder.safetensors")
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise PipelineError(
            f"encoder in {folder}: cannot be read ({error}); delete that folder and run again"
        ) from error
    encoder = build(settings_of(record["encoder"]), record["facts"])
    encoder.load_state_dict(weights)
    return encoder.eval()


def go_on_from(encoder: Encoder, folder: Path, facts: dict[str, Any]) -> None:
    """Gives a fresh encoder the weights that `save` wrote. Raises PipelineError where they are of another network, or where
    numbers mean other things to it: another tokenizer's tokens, another catalogue's items."""
    refuse_other_facts(folder, facts)
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except RuntimeError as error:
        raise PipelineError(
            f"start_from: the encoder in {folder} is another network: {str(error).splitlines()[-1].strip()}"
        ) from error


def refuse_other_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Raises PipelineError where the encoder that `save` wrote reads other tokens, or items, than data was packed with."""
    theirs = json.loads((folder / "encoder.json").read_text())["facts"]
    if other := [name for name in ("tokenizer", "names", "items") if theirs.get(name) != facts.get(name)]:
        raise PipelineError(
            f"the encoder in {folder} knows another {other[0]} than the data was packed with: it needs the dataset and encoder "
            "settings that it was trained on"
        )


def settings_in(folder: Path) -> EncoderPart:
    """Of the encoder that `save` wrote; data packed by them is as that encoder needs it."""
    return settings_of(json.loads((folder / "encoder.json").read_text())["encoder"])


def settings_of(config: dict[str, Any]) -> EncoderPart:
    from pydantic import TypeAdapter

    from ssl_pipeline.encoders.any_encoder import AnyEncoder

    return TypeAdapter(AnyEncoder).validate_python(config)
