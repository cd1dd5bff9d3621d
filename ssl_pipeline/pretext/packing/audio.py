"""recordings -> int16 arrays: every recording decoded once, to one channel at the encoder's rate and length."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssl_pipeline.encoders.log_mel import FLOOR, LogMel
from ssl_pipeline.ingest.audio import waveform
from ssl_pipeline.ingest.shards import SPLITS, rows
from ssl_pipeline.pretext.pack import chunks_of, write_index

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_audio import AudioEncoder

QUIET, SPREAD = -14.0, 4.0
"""Mean and deviation of the log-mel spectrogram where no training recording holds a sound: about those of speech."""


def write(tree: Path, folder: Path, settings: AudioEncoder) -> dict[str, Any]:
    """Fills `folder` with array `audio` `[n, samples]`. Returns mean and deviation of the training recordings' log-mel
    spectrogram, over the frames that hold any sound: the silence that fills up short recordings says nothing of them.
    Memory is one chunk of recordings however large the dataset."""
    counts = json.loads((tree / "dataset.json").read_text())["splits"]
    waveform_of = packer(settings, {})
    moments, log_mel = np.zeros(3), LogMel(settings)
    for split in SPLITS:
        shape = (counts[split], settings.samples)
        array = np.lib.format.open_memmap(folder / f"{split}.audio.npy", "w+", np.int16, shape)
        index, at = [], 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk in chunks_of(rows(tree, split), 64):
                sound = np.stack(list(pool.map(waveform_of, chunk)))
                array[at : at + len(chunk)] = sound
                at += len(chunk)
                if split == "train":
                    moments += sums(log_mel, sound)
                for row in chunk:
                    del row["audio"]
                index += chunk
        array.flush()
        write_index(folder, split, index)
    count, total, squares = moments
    if not count:
        return {"mean": QUIET, "std": SPREAD}
    mean = float(total / count)
    return {"mean": round(mean, 6), "std": round(max(float(squares / count) - mean**2, 1e-2) ** 0.5, 6)}


def packer(settings: AudioEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> int16 `[samples]`."""
    return lambda row: waveform(row["audio"]["bytes"], settings.sample_rate, settings.samples)


def sums(log_mel: LogMel, sound: np.ndarray) -> np.ndarray:
    """Number, sum and sum of squares of the values of all frames with sound in them, in float64."""
    with torch.inference_mode():
        power = log_mel.power(torch.from_numpy(sound)).transpose(1, 2)  # [batch, frames, mels]
        values = torch.log(power[power.sum(2) > 0] + FLOOR).double()
    return np.array([values.numel(), values.sum(), values.square().sum()])
