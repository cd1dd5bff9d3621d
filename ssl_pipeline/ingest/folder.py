"""image_folder: image files at any depth, sorted; folders name splits and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ssl_pipeline.ingest.item import SPLIT_NAMES, Item, Reading, read_file, unusable
from ssl_pipeline.ingest.sources import Folder
from ssl_pipeline.part import PipelineError

SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What the folders of a source mean: which of them are passed over, which name splits and which labels."""

    skip: int
    splits: frozenset[str]
    labels: bool

    @classmethod
    def of(cls, first: Iterable[str], labels: bool, skip: int = 0) -> Layout:
        """`first`: the names of the first folders that count. They are splits if all of them are split names, or if
        there are train and one of the others; so a class may be called `train` among buses and cars."""
        names = set(first)
        splits = frozenset(SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES)
        named = all(name.lower() in SPLIT_NAMES for name in names) or ("train" in splits and len(splits) > 1)
        return cls(skip, splits if named else frozenset(), labels)

    def place(self, parts: Parts) -> tuple[str | None, str | None]:
        """(label, split) of a file by the names on its path."""
        folders = parts[self.skip : -1]
        split = SPLIT_NAMES.get(folders[0].lower()) if folders and self.splits else None
        if split:
            folders = folders[1:]
        return (folders[0] if folders and self.labels else None), split


def hidden(name: str) -> bool:
    """Files and folders that systems leave behind, which no one means as data."""
    return name.startswith(".") or name.lower() in SYSTEM


def read(source: Folder, folder: Path) -> Reading:
    """Raises PipelineError where the folder is missing or cannot be listed."""
    folder = folder.resolve()
    layout = Layout.of((e.name for e in listed(folder) if e.is_dir(follow_symlinks=False)), source.labels)

    def items() -> Iterator[Item]:
        for parts, path, problem in walk(folder):
            label, split = layout.place(parts)
            load = unusable(problem) if problem else partial(read_file, path)
            yield Item("/".join(parts), load, label, split=split)

    return Reading(items(), layout.splits)


def walk(folder: Path) -> Iterator[tuple[Parts, str, str | None]]:
    """Every file below a resolved folder, sorted by the names on its path: (those names, path, why it is unusable).

    Links are followed to files inside the folder and nowhere else. One directory is held in memory at a time.
    """
    waiting: list[tuple[Parts, os.DirEntry[str]]] = [((e.name,), e) for e in reversed(listed(folder))]
    while waiting:
        parts, entry = waiting.pop()
        problem = None
        if entry.is_symlink():
            problem = _bad_link(folder, entry)
        elif entry.is_dir(follow_symlinks=False):
            try:
                waiting.extend(((*parts, e.name), e) for e in reversed(_sorted(entry.path)))
                continue
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
        yield parts, entry.path, problem


def listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return _sorted(folder)
    except FileNotFoundError as error:
        raise PipelineError(f"{folder}: there is no such folder: correct the source's path") from error
    except NotADirectoryError as error:
        raise PipelineError(f"{folder}: is a file, not a folder: use kind archive or table for it") from error
    except OSError as error:
        raise PipelineError(f"{folder}: cannot be listed: {error.strerror}") from error


def _sorted(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not hidden(e.name)), key=lambda e: e.name)


def _bad_link(folder: Path, entry: os.DirEntry[str]) -> str | None:
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for a loop
        return "broken link"
    if not target.is_relative_to(folder):
        return "link out of the folder"
    return "link to a folder" if target.is_dir() else None
