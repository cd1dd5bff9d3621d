"""From a source's settings to its reader, and a quick fingerprint that tells whether the source has changed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_pipeline.ingest import archive, demo, folder, table
from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.ingest.sources import Archive, Demo, Folder, Source, Table
from ssl_pipeline.part import PipelineError


def read(source: Source, root: Path) -> Reading:
    """The source's items. Raises PipelineError where it is missing or cannot be read as what it is said to be."""
    reading = _read(source, root)
    if isinstance(source, Folder | Archive) and source.pattern:
        return replace(reading, items=_named(reading.items, source.pattern))
    return reading


def _named(items: Iterator[Item], pattern: str) -> Iterator[Item]:
    """The items with the label and group that their paths name."""
    for item in items:
        found = re.search(pattern, item.source)
        named: dict[str, Any] = {k: v for k, v in found.groupdict().items() if v} if found else {}
        yield replace(item, **named)


def _read(source: Source, root: Path) -> Reading:
    match source:
        case Folder():
            return folder.read(source, located(source.path, root))
        case Archive():
            return archive.read(source, located(source.path, root))
        case Table():
            return table.read(source, located(source.path, root))
        case Demo():
            return demo.read(source)


def fingerprint(source: Source, root: Path) -> str:
    """A hash of the names, sizes and times of the source's files: quick, and never equal where a file was touched."""
    digest = hashlib.sha256()
    for line in _traces(source, root):
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def located(path: str, root: Path) -> Path:
    return root / Path(path).expanduser()


def _traces(source: Source, root: Path) -> Iterator[str]:
    match source:
        case Folder():
            top = located(source.path, root).resolve()
            for parts, file, _ in folder.walk(top):
                yield _trace("/".join(parts), Path(file))
        case Archive():
            path = located(source.path, root)
            if not path.exists():
                raise PipelineError(f"{path}: there is no such archive: correct the source's path")
            yield _trace(str(path), path)
        case Table():
            path = located(source.path, root)
            yield _trace(str(path), path)
            for image in table.named_files(source, path):
                yield _trace(str(image), image)
        case Demo():
            yield f"{source.name} {demo.version()}"


def _trace(name: str, path: Path) -> str:
    try:
        seen = os.stat(path)
    except OSError as error:
        return f"{name}\0{error.errno}"
    return f"{name}\0{seen.st_size}\0{seen.st_mtime_ns}"
