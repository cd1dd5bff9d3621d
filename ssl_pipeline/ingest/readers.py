"""A source's items, and the fingerprint by which an unchanged source is known without reading it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.ingest import archive, documents, folder, image_text, masks, objects, series_table, table
from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.ingest.source_files import Patterned
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.sources import Archive, Demo, Folder, Source, Table
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Split


def read(source: Source, root: Path, split: Split | None = None) -> Reading:
    """The source's items; where it is one recording in time, its splits are made here. Raises PipelineError where it is
    missing or cannot be read as what it is said to be."""
    reading = _read(source, root, split)
    if isinstance(source, Patterned) and source.pattern:
        return replace(reading, items=_named(reading.items, source.pattern))
    return reading


def _named(items: Iterator[Item], pattern: str) -> Iterator[Item]:
    """The items with the label and group that their paths name."""
    for item in items:
        found = re.search(pattern, item.source)
        named: dict[str, Any] = {k: v for k, v in found.groupdict().items() if v} if found else {}
        yield replace(item, **named)


def _read(source: Source, root: Path, split: Split | None) -> Reading:
    match source:
        case Folder():
            return folder.read(source, located(source.path, root))
        case Archive():
            return archive.read(source, located(source.path, root))
        case Table():
            return table.read(source, located(source.path, root))
        case Text():
            return documents.read(source, located(source.path, root))
        case CaptionTable():
            return image_text.read(source, located(source.path, root))
        case SeriesTable():
            shares = (split.validation, split.test) if split else ()
            return series_table.read(source, located(source.path, root), *shares)
        case Coco() | Voc():
            return objects.read(source, located(source.path, root))
        case Masks():
            return masks.read(source, located(source.path, root))
        case Demo():
            return import_module(f"ssl_pipeline.ingest.demo_{source.medium}").read(source.name)
        case InteractionsSource():
            raise PipelineError(f"{source.path}: interactions are read as a whole, by ingest.interactions")


def fingerprint(source: Source, root: Path) -> str:
    """A hash of the names, sizes and times of the source's files: quick, and never equal where a file was touched."""
    digest = hashlib.sha256()
    for line in _traces(source, root):
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def located(path: str, root: Path) -> Path:
    return root / Path(path).expanduser()


def _traces(source: Source, root: Path) -> Iterator[str]:
    if isinstance(source, Demo):
        version = import_module(f"ssl_pipeline.ingest.demo_{source.medium}").version(source.name)
        yield f"{source.name} {version}"
        return
    path = located(source.path, root)
    if isinstance(source, Folder) or (isinstance(source, Coco | Voc | Masks) and path.is_dir()):
        for parts, file, _ in folder.walk(path.resolve()):
            yield _trace("/".join(parts), Path(file))
        return
    if isinstance(source, Archive) and not path.exists():
        raise PipelineError(f"{path}: there is no such file or folder: correct the source's path")
    yield _trace(str(path), path)
    match source:
        case Table():
            named = table.named_files(source, path)
        case Text():
            named = documents.named_files(source, path)
        case CaptionTable():
            named = image_text.named_files(source, path)
        case InteractionsSource() if source.items:
            named = iter([located(source.items, root)])
        case _:
            named = iter(())
    for other in named:
        yield _trace(str(other), other)


def _trace(name: str, path: Path) -> str:
    try:
        seen = os.stat(path)
    except OSError as error:
        return f"{name}\0{error.errno}"
    return f"{name}\0{seen.st_size}\0{seen.st_mtime_ns}"
