"""A SoundFont 2 file: recordings of instruments, and which of them is played how for which key.

    SoundFont Technical Specification 2.04: section 7 (tables), 8.1 (generators), 9.4 (an instrument's and a preset's add up)

Enough to hear single notes: key ranges, tuning, loops, attenuation and the volume envelope; no filters, modulators or effects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

DECAY, SUSTAIN, KEYS, VELOCITIES, ATTENUATION, SEMITONES, CENTS, LOOPS, ROOT = 36, 37, 43, 44, 48, 51, 52, 54, 58
INSTRUMENT, RECORDING = 41, 53
SIGNED = (DECAY, ATTENUATION, SEMITONES, CENTS)
VELOCITY = 100
"""Of every note, 1 to 127: what is recorded at several loudnesses is taken from the one for this."""

Zone = dict[int, int]
"""Generators by number, with their amounts."""


@dataclass(frozen=True)
class Recording:
    """float32 samples in -1..1 and how they are used; a loop is from its first sample to the one behind its last."""

    sound: np.ndarray
    rate: int
    root: float
    """The key at which it sounds as recorded."""
    loop: tuple[int, int]


class SoundFont:
    """An open file. Raises KeyError or struct.error where it is none."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.chunks = dict(chunks(data, 0, len(data)))

    @cached_property
    def tables(self) -> dict[str, list[Any]]:
        forms = {"phdr": "<20s3H3I", "inst": "<20sH", "shdr": "<20s5IBb2H"} | dict.fromkeys(("pbag", "ibag"), "<2H")
        forms |= dict.fromkeys(("pgen", "igen"), "<H2s")
        return {name: list(struct.iter_unpack(form, self.chunks[name])) for name, form in forms.items()}

    def zones(self, program: int, key: int | None = None) -> list[Zone]:
        """What a melodic program plays, for one key or for all."""
        presets = self.tables["phdr"]
        place = next(i for i, preset in enumerate(presets) if preset[1:3] == (program, 0))
        found = []
        for outer in self.bags("p", presets[place][3], presets[place + 1][3], INSTRUMENT, key):
            first, last = (self.tables["inst"][outer[INSTRUMENT] + i][1] for i in (0, 1))
            for inner in self.bags("i", first, last, RECORDING, key):
                add = {op: inner.get(op, 0) + outer.get(op, 0) for op in (ATTENUATION, SEMITONES, CENTS)}
                found.append(inner | add)
        return found

    def bags(self, level: str, first: int, last: int, target: int, key: int | None) -> Iterator[Zone]:
        """The zones of a preset (p) or an instrument (i) that name a target and hold the key; a first one without target
        stands for what all have in common."""
        bags, generators = self.tables[f"{level}bag"], self.tables[f"{level}gen"]
        common: Zone = {}
        for bag in range(first, last):
            zone = common | {
                op: int.from_bytes(amount, "little", signed=op in SIGNED)
                for op, amount in generators[bags[bag][0] : bags[bag + 1][0]]
            }
            if target not in zone:
                common = zone if bag == first else common
            elif holds(zone.get(KEYS), key) and holds(zone.get(VELOCITIES), VELOCITY):
                yield zone

    def recording(self, zone: Zone) -> Recording:
        _, start, end, loop, behind, rate, root, correction, *_ = self.tables["shdr"][zone[RECORDING]]
        sound = np.frombuffer(self.chunks["smpl"], "<i2")[start:end].astype(np.float32) / 32768
        key = zone.get(ROOT, 0xFFFF)
        root = (root if key > 127 else key) - correction / 100 - zone[SEMITONES] - zone[CENTS] / 100
        return Recording(sound, rate, root, (loop - start, behind - start))

    def note(self, program: int, key: int, seconds: float, rate: int) -> np.ndarray:
        """float64 `[samples]`: a key held for so long, both sides of stereo recordings together."""
        time = np.arange(round(seconds * rate)) / rate
        out = np.zeros(len(time))
        for zone in self.zones(program, key):
            recording = self.recording(zone)
            places = time * recording.rate * 2 ** ((key - recording.root) / 12)
            first, behind = recording.loop
            if zone.get(LOOPS, 0) % 2 and behind > first:
                places = np.where(places < behind, places, first + (places - first) % (behind - first))
            played = np.interp(places, np.arange(len(recording.sound)), recording.sound, right=0)
            out += played * 10 ** (-decibels(zone, time) / 20)
        return out


def decibels(zone: Zone, time: np.ndarray) -> np.ndarray:
    """How much quieter a held note is at each time: its attenuation, and its decay of 100 dB per decay time down to what is
    sustained."""
    seconds = 2 ** (zone.get(DECAY, -12000) / 1200)
    return zone[ATTENUATION] / 10 + np.minimum(100 * time / seconds, zone.get(SUSTAIN, 0) / 10)


def holds(bounds: int | None, value: int | None) -> bool:
    """Whether a range, low byte to high byte, holds the value; a missing one holds all."""
    return bounds is None or value is None or bounds & 0xFF <= value <= bounds >> 8


def chunks(data: bytes, at: int, end: int) -> Iterator[tuple[str, bytes]]:
    """The leaves of a RIFF file: name and content."""
    while at + 8 <= end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"RIFF", b"LIST"):
            yield from chunks(data, at + 12, at + 8 + size)
        else:
            yield name.decode("ascii"), data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
