"""Checkpoints: written whole or not at all, verified when read, the last two kept.

They hold whole tensors by their names in the model, so that another number of processes, sharded or not, can go on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

from ssl_pipeline.store import sha256, write_json

KEPT = 2
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All processes call it; the first one gets what `restore` takes."""
    weights, moments = get_state_dict(model, optimizer, options=WHOLE)
    return {"model": weights, "optimizer": moments}


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, float]]:
    """The newest checkpoint's state, into model and optimizer in place. Returns its step and the seconds and joules that were
    spent until then; zeros where there is none."""
    if not (saved := newest(folder)):
        return 0, {"seconds": 0.0, "joules": 0.0}
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    weights, moments = saved["model"], saved["optimizer"]
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=WHOLE)
    for group, made in zip(optimizer.param_groups, settings, strict=True):
        group.update(made)  # the recipe's, not the checkpoint's: a sharded run cannot use fused steps
    return saved["step"], {what: saved[what] for what in ("seconds", "joules")}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Whole tensors on the CPU, from a model that may be sharded; all processes call it and all get them."""
    state = model.state_dict()
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).cpu() for k, v in state.items()}


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes `step-N.pt` and then its side-car `step-N.json` with size and SHA-256; without the side-car it does not count."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    fresh = path.with_suffix(".tmp")
    with open(fresh, "wb") as file:
        torch.save({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    write_json(path.with_suffix(".json"), {"step": step, "bytes": path.stat().st_size, "sha256": sha256(path)})
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint that is whole, or None; a damaged one is passed over for the one before it.
    Reads tensors and plain values only, never code (`weights_only`)."""
    for sidecar in sorted(folder.glob("step-*.json"), reverse=True):
        path = sidecar.with_suffix(".pt")
        try:
            if json.loads(sidecar.read_text())["sha256"] == sha256(path):
                return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError):
            pass
        print(f"checkpoint {path.name} is damaged; trying the one before it", flush=True)
    return None
