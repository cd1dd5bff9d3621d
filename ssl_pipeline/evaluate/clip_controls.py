"""Does an answer about a video need time? The same clips without it.

    one frame         the middle frame in every place: no motion is left (Huang et al. 2018, "What Makes a Video a Video")
    shuffled frames   a clip's frames in random order: what moves is left, but not when (Sevilla-Lara et al. 2021, "Only Time
                      Can Tell")

An encoder is given such clips in training, validation and test alike, so that its probes are fitted to what they are shown.
An embedding that is the mean of its frames' is the same for shuffled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Arrays, Pack, Stored, rows_in


def without_time(pack: Pack) -> dict[str, Pack]:
    """The pack of each control by its name."""
    return {name: Rearranged(pack.path, pack.facts, places) for name, places in CONTROLS.items()}


def one_frame(clips: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """`[clips, frames]`, which of a clip's frames is shown at each place."""
    return np.full((clips, frames), frames // 2)


def shuffled_frames(clips: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """`[clips, frames]`, which of a clip's frames is shown at each place."""
    return random.permuted(np.tile(np.arange(frames), (clips, 1)), axis=1)


Places = Callable[[int, int, np.random.Generator], np.ndarray]
CONTROLS: dict[str, Places] = {"one frame": one_frame, "shuffled frames": shuffled_frames}


@dataclass(frozen=True)
class Rearranged(Pack):
    """A pack of videos whose clips show their frames elsewhere. A split's are always rearranged alike."""

    places: Places

    def samples(self, split: str) -> Arrays:
        stored = super().samples(split)
        random = np.random.default_rng(SPLITS.index(split))
        clips: Any = Clips(stored["clip"], self.places(rows_in(stored), stored["clip"].shape[1], random))
        return stored | {"clip": clips}


class Clips:
    """Stored clips `[n, frames, ...]`, read and rearranged when they are asked for."""

    def __init__(self, stored: Stored, places: np.ndarray) -> None:
        self.stored, self.places = stored, places
        self.shape, self.nbytes = stored.shape, stored.nbytes

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        clips, places = self.stored[which], self.places[which]
        return clips[np.arange(len(clips))[:, None], places]
