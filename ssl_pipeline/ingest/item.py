"""What every reader yields: items, in an order that is the same on every machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 1 << 30
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
"""How sources spell the splits."""


class BadSample(Exception):
    """What is no usable sample. The message is the reason: a few words, then details behind a colon."""


@dataclass(frozen=True)
class Item:
    """One candidate sample. `load` returns the file's bytes or raises BadSample, until the next item is asked for."""

    source: str
    load: Callable[[], bytes]
    label: str | None = None
    group: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs to the sample, such as captions."""


@dataclass(frozen=True)
class Reading:
    """A source about to be read: its items, the splits that it names itself, and how many items there are, if known."""

    items: Iterator[Item]
    splits: frozenset[str] = frozenset()
    total: int | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of the source, such as gaps in it."""


def unusable(reason: str) -> Callable[[], bytes]:
    """The `load` of an item that is known to be bad before it is opened."""

    def load() -> bytes:
        raise BadSample(reason)

    return load


def read_file(path: str | Path) -> bytes:
    """A regular file's bytes. Raises BadSample where it cannot be read, is no regular file or is above 1 GiB."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise BadSample("not a regular file")
        with open(path, "rb") as file:
            return read_bounded(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise BadSample(f"cannot be read: {error.strerror}") from error


def read_bounded(file: BinaryIO, declared: int) -> bytes:
    """All bytes of an open file, whose header may lie about its size. Raises BadSample above 1 GiB."""
    data = b"" if declared > MAX_BYTES else file.read(MAX_BYTES + 1)
    if max(declared, len(data)) > MAX_BYTES:
        raise BadSample("oversized: a file above 1 GiB")
    return data
