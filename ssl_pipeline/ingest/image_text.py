"""image_text: images with captions, named by a table beside them; and what makes such a pair one sample.

A sample is an image with all its captions. Its identity is the image's pixels and the captions, whose order does not count.
"""

from __future__ import annotations

import os
import stat
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ssl_pipeline.ingest.archive import files as archive_files
from ssl_pipeline.ingest.caption_table import SUFFIXES, Entry, Key, Table, entries_of, image_cell
from ssl_pipeline.ingest.folder import Parts, hidden
from ssl_pipeline.ingest.images import decode, sample_id
from ssl_pipeline.ingest.item import BadSample, Item, Reading, read_file, unusable
from ssl_pipeline.ingest.medium import FILE, INT, Column, Sample, ranges
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.table import inside
from ssl_pipeline.part import PipelineError

MAX_CHARACTERS = 1000
"""Of a caption; the rest is cut off."""
LOOK = 200
"""Names of images by which the folder that holds them is found."""


class ImageText:
    """Images with captions in the eyes of ingestion."""

    columns: dict[str, Column] = {
        "image": (FILE, {"_type": "Image"}),
        "captions": (pa.list_(pa.string()), {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}),
        "height": INT,
        "width": INT,
    }

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        image = decode(data)
        captions, cut = tidy(extra.get("captions", ()))
        if not captions:
            raise BadSample("no caption")
        digest = blake2b(sample_id(image).encode(), digest_size=16)
        for caption in sorted(captions):
            digest.update(b"\0" + caption.encode())
        size = {"height": image.height, "width": image.width}
        counted = {
            "channels": len(image.getbands()), "captions": len(captions), "cut": cut + extra.get("dropped", 0),
            "characters": max(map(len, captions)),
        }  # fmt: skip
        columns = {"image": {"bytes": data, "path": None}, "captions": captions, **size}
        return Sample(digest.hexdigest(), columns, size | counted)

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        captions = tallies["captions"]
        return {
            "channels": max(tallies["channels"]),
            "sizes": ranges(tallies, "height", "width"),
            "captions": sum(number * count for number, count in captions.items()),
            "captions_an_image": {"min": min(captions), "max": max(captions)},
            "longest_caption": max(tallies["characters"]),
            "captions_cut": sum(number * count for number, count in tallies["cut"].items()),
        }


def tidy(captions: Iterable[str]) -> tuple[list[str], int]:
    """Captions in Unicode's form C, with single spaces, without control characters, at most 1,000 characters long, each once
    and none empty; and how many were cut to that length."""
    kept: dict[str, None] = {}
    cut = 0
    for caption in captions:
        # file names and JSON can hold halves of surrogate pairs, which no UTF-8 can
        whole = caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        printed = "".join(c if unicodedata.category(c) != "Cc" else " " for c in unicodedata.normalize("NFC", whole))
        clean = " ".join(printed.split())
        cut += len(clean) > MAX_CHARACTERS
        clean = clean[:MAX_CHARACTERS].rstrip()
        if clean:
            kept.setdefault(clean)
    return list(kept), cut


def read(source: CaptionTable, path: Path) -> Reading:
    """Raises PipelineError where the source or its table is missing or malformed, has no such column, or names an unknown
    split."""
    if is_archive(path):
        table, members = in_archive(source, path)
        entries = entries_of(table, source)
        base = PurePosixPath(table.name).parent
        under = members_folder(source, base, entries, members)
        items = _from_archive(path, entries, PurePosixPath(base, under))
    else:
        table, folder = in_folder(source, path)
        entries = entries_of(table, source)
        items = _from_folder(folder, entries, files_folder(source, folder, entries))
    inline = {entry.row: entry for entry in entries.values() if entry.inline}

    def all_items() -> Iterator[Item]:
        if inline:
            for number, row in table.rows([source.image]):
                if entry := inline.get(number):
                    yield item(entry, partial(bytes, image_cell(row[source.image])[0] or b""))
        yield from items

    splits = frozenset(entry.split for entry in entries.values() if entry.split)
    return Reading(all_items(), splits, len(entries))


def named_files(source: CaptionTable, path: Path) -> Iterator[Path]:
    """The files that decide what is read: the archive, or the table and the images that it names."""
    if is_archive(path):
        yield path
        return
    table, folder = in_folder(source, path)
    yield Path(table.name)
    entries = entries_of(table, source)
    top, under = folder.resolve(), files_folder(source, folder, entries)
    for entry in entries.values():
        if not entry.inline and (file := inside(os.path.join(under, entry.name), top)):
            yield file


def item(entry: Entry, load: Callable[[], bytes]) -> Item:
    load = unusable(entry.fault) if entry.fault else load
    extra = {"captions": entry.captions, "dropped": entry.dropped}
    return Item(entry.name, load, entry.label, entry.group, entry.split, extra)


def _from_folder(folder: Path, entries: dict[Key, Entry], under: str) -> Iterator[Item]:
    top = folder.resolve()
    for entry in entries.values():
        if not entry.inline:
            file = inside(os.path.join(under, entry.name), top)
            yield item(entry, partial(read_file, file) if file else unusable("outside the table's folder"))


def _from_archive(path: Path, entries: dict[Key, Entry], under: PurePosixPath) -> Iterator[Item]:
    waiting = {PurePosixPath(under, key).parts: entry for key, entry in entries.items() if isinstance(key, str)}
    for parts, load in archive_files(path):
        if entry := waiting.pop(parts, None):
            yield item(entry, load)
    for parts, entry in waiting.items():
        leads_out = ".." in parts or entry.name.startswith(("/", "\\"))
        yield item(entry, unusable("outside the archive" if leads_out else "not in the archive"))


def is_archive(path: Path) -> bool:
    """Whether a zip or a tar, by its content. Raises PipelineError where there is nothing, or what is no file or folder."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return False
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise PipelineError(f"{path}: is no regular file: correct the source's path")
        with open(path, "rb") as file:
            start = file.read(4)
        return start in (b"PK\x03\x04", b"PK\x05\x06") or (start != b"PAR1" and tarfile.is_tarfile(path))
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: there is no such table, folder or archive: correct the source's path") from error
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from error


def in_folder(source: CaptionTable, path: Path) -> tuple[Table, Path]:
    """The table at or in `path`, and the folder it lies in."""
    if path.is_dir():
        if source.captions:
            path = inside(source.captions, path.resolve()) or path / source.captions
        else:
            names = [e.name for e in os.scandir(path) if e.is_file() and not hidden(e.name)]
            path = path / the_only_table(path, names)
    if not path.is_file():
        raise PipelineError(f"{path}: there is no such table: correct the source's captions")
    return Table(str(path), lambda: open(path, "rb")), path.parent


def in_archive(source: CaptionTable, path: Path) -> tuple[Table, set[Parts]]:
    """The archive's table, read into memory, and the names of all members."""
    members: set[Parts] = set()
    tables: dict[str, bytes] = {}
    for parts, load in archive_files(path):
        members.add(parts)
        name = "/".join(parts)
        is_table = name.lower().endswith(SUFFIXES) and not tables
        if name == source.captions or (source.captions is None and is_table):
            try:
                tables[name] = load()
            except BadSample as reason:
                raise PipelineError(f"{path}: its table {name} cannot be read: {reason}") from reason
    names = ["/".join(parts) for parts in sorted(members)]
    if source.captions and not tables:
        raise PipelineError(f"{path}: has no {source.captions}: correct the source's captions")
    name = source.captions or the_only_table(path, names)
    return Table(name, partial(BytesIO, tables[name])), members


def the_only_table(path: Path, names: Iterable[str]) -> str:
    tables = sorted(name for name in names if name.lower().endswith(SUFFIXES))
    if len(tables) != 1:
        found = f"holds the tables {', '.join(tables[:5])}" if tables else f"holds no table ({', '.join(SUFFIXES)})"
        raise PipelineError(f"{path}: {found}: name the one with captions in the source's captions")
    return tables[0]


def files_folder(source: CaptionTable, folder: Path, entries: dict[Key, Entry]) -> str:
    """The folder, seen from the table's, that images' names are relative to."""
    if source.images is not None:
        return source.images
    with os.scandir(folder) as listing:
        below = sorted(e.name for e in listing if e.is_dir(follow_symlinks=False) and not hidden(e.name))
    return likeliest(["", *below], entries, lambda under, name: os.path.isfile(os.path.join(folder, under, name)))


def members_folder(source: CaptionTable, base: PurePosixPath, entries: dict[Key, Entry], members: set[Parts]) -> str:
    """As `files_folder`, in an archive."""
    if source.images is not None:
        return source.images
    depth = len(base.parts)
    below = {parts[depth] for parts in members if parts[:depth] == base.parts and len(parts) > depth + 1}
    return likeliest(
        ["", *sorted(below)], entries, lambda under, name: PurePosixPath(base, under, name).parts in members
    )


def likeliest(folders: list[str], entries: dict[Key, Entry], exists: Callable[[str, str], bool]) -> str:
    """The folder with most of the first images; of equal ones the first."""
    keys = list(islice((key for key in entries if isinstance(key, str)), LOOK))
    return max(folders, key=lambda folder: sum(exists(folder, key) for key in keys))
