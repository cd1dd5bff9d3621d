"""demo: notes of real instruments, from the recordings that travel inside the package pretty_midi as a SoundFont.

General MIDI's instruments, each recorded at some keys and played at those around them as a sampler does, as NSynth was
made (Engel et al. 2017, "Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders"). Labels are families of
instruments; a group is all that comes from the same recordings, for a note of a recording that was heard before is no test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.ingest.sound_font import RECORDING, SoundFont
from ssl_pipeline.part import PipelineError

PACKAGE, FILE = "pretty_midi", "TimGM6mb.sf2"
RATE, SECONDS = 16_000, 0.96
LOWEST, HIGHEST = 28, 100
"""Keys: E1 to E7."""
REACH = 12
"""Semitones that a recording is played away from its own key: an octave."""
QUIETEST = 1e-3
"""Peak below which nothing is heard of a note."""

FAMILIES = {
    "bass": (32, 33, 34, 35, 36, 37),
    "bowed": (40, 41, 42, 43, 44, 48, 49),
    "brass": (56, 57, 58, 59, 60),
    "flute": (72, 73, 74, 77, 78, 79),
    "mallet": (9, 10, 11, 12, 13, 14, 108, 114),
    "organ": (16, 17, 18, 19, 20, 21, 22, 23),
    "piano": (0, 1, 2, 3, 4, 5, 6),
    "plucked": (26, 45, 46, 105, 106, 107),
    "reed": (64, 65, 66, 67, 68, 69, 70, 71, 111),
}
"""General MIDI programs, counted from 0. Those that this SoundFont plays with another family's recordings are left out."""


def read(name: str = "instruments") -> Reading:
    """Raises PipelineError where the package is missing."""
    return Reading(items())


def items() -> Iterator[Item]:
    """About 2,400 notes of nine families. Raises PipelineError where the package is missing."""
    font = SoundFont(_file())
    notes = [
        (family, program, key, [zone[RECORDING] for zone in zones])
        for family, programs in FAMILIES.items()
        for program in programs
        for key in range(LOWEST, HIGHEST + 1)
        if (zones := font.zones(program, key))
        and min(abs(key - font.recording(zone).root) for zone in zones) <= REACH
        and np.abs(font.note(program, key, SECONDS, RATE)).max() > QUIETEST
    ]
    group = _first_of_kin([recordings for *_, recordings in notes])
    for family, program, key, recordings in notes:
        name = f"recording {group[recordings[0]]:03d}"
        load = partial(_wav, font, program, key)
        yield Item(f"notes/{family}/{program:03d}/{key:03d}.wav", load, label=family, group=name)


def version(name: str) -> str:
    _file()
    return importlib.metadata.version(PACKAGE)


def _file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError(f"demo notes: package {PACKAGE} is not installed: pip install {PACKAGE}")
    return path


def _wav(font: SoundFont, program: int, key: int) -> bytes:
    file = BytesIO()
    note = np.clip(0.5 * font.note(program, key, SECONDS, RATE), -1, 1)
    soundfile.write(file, np.rint(32767 * note).astype(np.int16), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _first_of_kin(sets: list[list[int]]) -> dict[int, int]:
    """For every number the least of those that it is joined to, directly or through others, by standing in one set."""
    parent = {number: number for numbers in sets for number in numbers}

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number] = parent[parent[number]]
        return number

    for numbers in sets:
        for number in numbers:
            one, other = sorted((root(number), root(numbers[0])))
            parent[other] = one
    return {number: root(number) for number in parent}
