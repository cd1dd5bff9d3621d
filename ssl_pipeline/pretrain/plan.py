"""What the recipe does not say of a training: from where it begins, how long it lasts, in how many pieces memory holds a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

FRESH = "fresh.npy"


@dataclass(frozen=True)
class Plan:
    """By default a fresh encoder, the recipe's epochs and pieces."""

    start_from: Path | None = None
    """Folder of the encoder to go on from."""
    fresh: np.ndarray | None = None
    """Rows of the training split that this one has not seen, int64 `[n]`: an epoch is these, and of the others the share that the
    recipe replays."""
    steps: int | None = None
    """Trained instead of the recipe's epochs."""
    accumulate: int | None = None
    """More pieces of each batch than the recipe says, where memory was too small; the batch itself stays."""

    def write(self, folder: Path) -> dict[str, Any]:
        """As JSON; rows go to a file in the folder."""
        if self.fresh is not None:
            np.save(folder / FRESH, self.fresh)
        return {
            "start_from": str(self.start_from) if self.start_from else None,
            "fresh": self.fresh is not None,
            "steps": self.steps,
            "accumulate": self.accumulate,
        }

    @classmethod
    def read(cls, said: dict[str, Any], folder: Path) -> Self:
        """What `write` said."""
        start = Path(said["start_from"]) if said["start_from"] else None
        return cls(start, np.load(folder / FRESH) if said["fresh"] else None, said["steps"], said["accumulate"])
