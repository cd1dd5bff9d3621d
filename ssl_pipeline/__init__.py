"""From unlabelled data to a registered, honestly evaluated encoder.

    from ssl_pipeline import Recipe, run_recipe, load_encoder

Names are imported when they are first used, so that `import ssl_pipeline` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ssl_pipeline.chain import run_recipe as run_recipe
    from ssl_pipeline.orchestration.components import Dataset as Dataset
    from ssl_pipeline.orchestration.components import Pretraining as Pretraining
    from ssl_pipeline.recipe import Recipe as Recipe

# Threads of one process meet at a barrier after every small operation. Where one of them has lost its core to another
# process the rest wait: measured with two threads on two busy cores, training slowed down 6 to 30 times; on idle ones the
# second thread gained 1.3 times. Half of the cores is what a process takes unless it is told otherwise.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))

_HOMES = {
    "Recipe": "ssl_pipeline.recipe",
    "run_recipe": "ssl_pipeline.chain",
    # the two that a defs.yaml names; Dagster finds them by dir() and getattr()
    "Dataset": "ssl_pipeline.orchestration.components",
    "Pretraining": "ssl_pipeline.orchestration.components",
}


def load_encoder(folder: str | Path) -> nn.Module:
    """A pretrained encoder, to train on or to embed with, from a folder with encoder.safetensors and encoder.json: that
    of a `pretrained_encoder` stage, or `extra_files` of a registered version."""
    from ssl_pipeline.encoders.encoder import load

    return load(Path(folder))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
