"""archive: a zip or tar read as if it were a folder, never unpacked.

All names are checked before the first byte is used. A zip or a plain tar is read sorted by name; a compressed tar can
only be read forwards, so there the order is the archive's own.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from stat import S_ISLNK
from typing import Any

from ssl_pipeline.ingest.folder import Layout, Parts, hidden
from ssl_pipeline.ingest.images import BadSample
from ssl_pipeline.ingest.item import Item, Reading, read_bounded
from ssl_pipeline.ingest.sources import Archive
from ssl_pipeline.part import PipelineError

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)
"""What zipfile, tarfile and the decompressors raise on damaged bytes (NotImplementedError is a RuntimeError)."""


@dataclass(frozen=True)
class Member:
    name: str
    load: Callable[[], bytes]
    folder: bool = False
    refused: str | None = None
    """Why an archive with this member is not read at all."""


def read(source: Archive, path: Path) -> Reading:
    """Raises PipelineError where the archive is missing, damaged or encrypted, or where a member is a link or a device
    or its name leads out of the archive."""
    folders: set[Parts] = set()
    total = 0
    for parts, _ in files(path):
        folders.add(parts[:-1])
        total += 1
    skip = len(os.path.commonprefix(list(folders)))
    layout = Layout.of({folder[skip] for folder in folders if len(folder) > skip}, source.labels, skip)

    def items() -> Iterator[Item]:
        for parts, load in files(path):
            label, split = layout.place(parts)
            yield Item("/".join(parts), load, label, split=split)

    return Reading(items(), layout.splits, total)


def files(path: Path) -> Iterator[tuple[Parts, Callable[[], bytes]]]:
    """The archive's visible files: (names on the path, how to load the bytes); any unsafe member ends it."""
    for member in _members(path):
        name = member.name.replace("\\", "/")
        leads_out = name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/")
        if refused := "has a name that leads out of the archive" if leads_out else member.refused:
            raise PipelineError(
                f"{path}: member {member.name!r} {refused}; nothing was read: make the archive without it"
            )
        parts = PurePosixPath(name).parts
        if not member.folder and parts and not any(hidden(part) for part in parts):
            yield parts, member.load


def _members(path: Path) -> Iterator[Member]:
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        yield from _zip_members(path) if is_zip else _tar_members(path)
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: there is no such file or folder: correct the source's path") from error
    except IsADirectoryError as error:
        raise PipelineError(f"{path}: is a folder: use kind image_folder for it") from error
    except DAMAGE as error:
        why = " ".join(str(error).split())[:200]
        raise PipelineError(f"{path}: cannot be read as zip or tar, replace it by an undamaged copy: {why}") from error


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            refused = "is encrypted" if info.flag_bits & 1 else None
            if S_ISLNK(info.external_attr >> 16):
                refused = "is a link"
            load = partial(_load, partial(archive.open, info), info.file_size)
            yield Member(info.filename, load, info.is_dir(), refused)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        plain = isinstance(archive.fileobj, io.BufferedReader)
        for info in sorted(archive.getmembers(), key=lambda info: info.name) if plain else _forwards(archive):
            refused = (
                None if info.isreg() or info.isdir() else "is a link" if info.issym() or info.islnk() else "is a device"
            )
            load = partial(_load, partial(archive.extractfile, info), info.size)
            yield Member(info.name, load, info.isdir(), refused)
        # tarfile takes a garbled header for the end of the archive; at the true end there are zeros or nothing
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"truncated or damaged at byte {archive.offset}")


def _forwards(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep every member in memory
        yield info


def _load(open_member: Callable[[], Any], declared: int) -> bytes:
    try:
        with open_member() as file:
            return read_bounded(file, declared)
    except DAMAGE as error:
        raise BadSample(f"damaged in the archive: {error}") from error
