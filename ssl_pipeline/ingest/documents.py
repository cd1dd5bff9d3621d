"""text: documents from a file, a folder or an archive, in an order that is the same on every machine."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ssl_pipeline.ingest import archive, folder, table
from ssl_pipeline.ingest.folder import Layout, Parts
from ssl_pipeline.ingest.item import BadSample, Item, Reading, read_file, unusable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.text import MAX_CHARACTERS
from ssl_pipeline.ingest.text_rows import Open, Row, columns, format_of, inflated, row_count, rows
from ssl_pipeline.part import PipelineError, did_you_mean

DOCUMENTS = {"", ".txt", ".text", ".md"}
"""Suffixes of the files of a folder that are documents; a number is one, too."""
Load = Callable[[], bytes]


@dataclass(frozen=True)
class One:
    """A single file."""

    name: str
    open: Open


@dataclass(frozen=True)
class Many:
    """The files of a folder, and what its folders mean."""

    files: Callable[[], Iterator[tuple[Parts, Load]]]
    layout: Layout


def read(source: Text, path: Path) -> Reading:
    """Raises PipelineError where the source is missing or malformed, lacks a column, or names an unknown split."""
    found = at(path, source.member, source.labels)
    if source.parallel:
        inside = is_archive(path, source.member)
        other = at(path, source.parallel) if inside else at(path.parent / source.parallel)
        return pairs(source, found, other)
    if isinstance(found, Many):
        return Reading(from_files(source, found), found.layout.splits)
    if format_of(source, found.name) != "lines":
        return from_table(source, found)
    if source.per == "file":
        item = Item(found.name, partial(document, partial(contents, found.open), source.encoding))
        return Reading(iter([item]), total=1)
    return Reading(from_lines(source, found))


def named_files(source: Text, path: Path) -> Iterator[Path]:
    """The files that the source reads."""
    if path.is_dir():
        yield from (Path(file) for _, file, _ in folder.walk(path.resolve()))
    else:
        yield path
        if source.parallel and not is_archive(path, source.member):
            yield path.parent / source.parallel


def at(path: Path, member: str | None = None, labels: bool = False) -> One | Many:
    """What lies at a path, or inside the archive that lies there."""
    if path.is_dir():
        if member:
            raise PipelineError(f"{path}: is a folder, and member is for archives: add {member!r} to the path")
        top = path.resolve()
        first = [entry.name for entry in folder.listed(top) if entry.is_dir(follow_symlinks=False)]
        return Many(partial(below, top), Layout.of(first, labels))
    if not is_archive(path, member):
        return One(str(path), cast(Open, partial(open, path, "rb")))
    wanted = PurePosixPath(member or "").parts
    names = [parts for parts, _ in archive.files(path)]
    chosen = [parts for parts in names if parts[: len(wanted)] == wanted]
    if not chosen:
        known = ["/".join(parts) for parts in names]
        raise PipelineError(f"{path}: has no member {member!r}{did_you_mean(member or '', known)}")
    if len(chosen) == 1:
        return One("/".join((str(path), *chosen[0])), partial(open_member, path, chosen[0]))
    folders = {parts[:-1] for parts in chosen}
    skip = len(commonprefix(list(folders)))
    layout = Layout.of({parts[skip] for parts in folders if len(parts) > skip}, labels, skip)
    return Many(lambda: (file for file in archive.files(path) if file[0][: len(wanted)] == wanted), layout)


def is_archive(path: Path, member: str | None) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(member) or file.read(4) in (b"PK\x03\x04", b"PK\x05\x06") or tarfile.is_tarfile(path)
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: there is no such file or folder: correct the source's path") from error
    except archive.DAMAGE:  # reading it says what is wrong
        return False


def below(top: Path) -> Iterator[tuple[Parts, Load]]:
    for parts, path, problem in folder.walk(top):
        yield parts, unusable(problem) if problem else partial(read_file, path)


def open_member(path: Path, wanted: Parts) -> BinaryIO:
    """A member of an archive that was found safe: of a zip a stream, of a tar its bytes in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for info in opened.infolist():
                if PurePosixPath(info.filename.replace("\\", "/")).parts == wanted and not info.is_dir():
                    return cast(BinaryIO, opened.open(info))
    return io.BytesIO(next(load() for parts, load in archive.files(path) if parts == wanted))


def from_files(source: Text, found: Many) -> Iterator[Item]:
    """A document a file, or a line of each."""
    for parts, load in found.files():
        name = "/".join(parts)
        label, split = found.layout.place(parts)
        suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
        if suffix not in DOCUMENTS and not suffix[1:].isdigit():
            yield Item(name, unusable("not a text file by its name"), label, split=split)
        elif source.per != "line":
            yield Item(name, partial(document, load, source.encoding), label, split=split)
        else:
            try:
                one = One(name, partial(io.BytesIO, load()))
            except BadSample as reason:
                yield Item(name, unusable(str(reason)), label, split=split)
                continue
            for item in from_lines(source, one):
                yield Item(f"{name} {item.source}", item.load, label, split=split)


def document(load: Load, encoding: str | None) -> bytes:
    """A file's text as UTF-8."""
    data = load()
    data = contents(partial(io.BytesIO, data)) if data.startswith(b"\x1f\x8b") else data
    try:
        return data if encoding is None else data.decode(encoding).encode()
    except UnicodeError as error:
        raise BadSample(f"not {encoding}: {error}") from error


def contents(open_file: Open) -> bytes:
    """What a file holds, of gzip what is packed in it; no more than shows that it is too much."""
    try:
        with inflated(open_file) as file:
            return file.read(4 * MAX_CHARACTERS + 1)
    except archive.DAMAGE as error:
        raise BadSample(f"cannot be read: {error}") from error


def from_lines(source: Text, file: One) -> Iterator[Item]:
    for number, row in rows(file.open, file.name, by_line(source)):
        if not blank(row):
            yield Item(f"line {number}", cell([row], source.encoding))


def by_line(source: Text) -> Text:
    return source.model_copy(update={"format": "lines"})


def blank(row: Row) -> bool:
    return isinstance(row, dict) and not row["text"].strip()


def pairs(source: Text, left: One | Many, right: One | Many) -> Reading:
    """Line n of one file, and as its target line n of another."""
    if not (isinstance(left, One) and isinstance(right, One)):
        raise PipelineError("parallel pairs the lines of two files, and one of them is a folder: name its files")

    def items() -> Iterator[Item]:
        sides = (rows(side.open, side.name, by_line(source)) for side in (left, right))
        for one, other in zip_longest(*sides):
            if one is None or other is None:
                shorter, longer = (right, left) if other is None else (left, right)
                raise PipelineError(
                    f"{shorter.name}: has fewer lines than {longer.name}, and each needs its other side: correct parallel"
                )
            if not (blank(one[1]) and blank(other[1])):
                target = clean(other[1]["text"]) if isinstance(other[1], dict) else None
                yield item_of(f"line {one[0]}", [one[1]], {"target": target}, source, needs_target=True)

    return Reading(items())


def from_table(source: Text, file: One) -> Reading:
    """A document a row."""
    if source.per == "file":
        raise PipelineError(f"{file.name}: is a table, whose documents are rows: leave out per")
    known = columns(file.open, file.name, source)
    for column in (*source.texts, *source.columns.values()):
        if column not in known:
            near = (
                did_you_mean(column, [name for name in known if isinstance(name, str)])
                if isinstance(column, str)
                else ""
            )
            listed = ", ".join(map(str, known)) or "none"
            raise PipelineError(f"{file.name}: has no column {column!r}{near} (columns: {listed})")

    def split_in(row: Row, number: int) -> str | None:
        value = row.get(source.split) if source.split is not None and isinstance(row, dict) else None
        return table.split_in_cell(value, number, Path(file.name))

    def items() -> Iterator[Item]:
        for number, row in rows(file.open, file.name, source):
            said = {k: clean(row.get(column)) for k, column in source.columns.items()} if isinstance(row, dict) else {}
            parts: list[Row] = [row if isinstance(row, str) else {"text": row.get(column)} for column in source.texts]
            said["split"] = split_in(row, number)
            yield item_of(f"row {number}", parts, said, source, needs_target=source.target is not None)

    splits = {split_in(row, n) for n, row in rows(file.open, file.name, source)} if source.split is not None else set()
    return Reading(items(), frozenset(s for s in splits if s), row_count(file.open, file.name, source))


def item_of(name: str, parts: list[Row], said: dict[str, str | None], source: Text, needs_target: bool) -> Item:
    target = said.get("target")
    load = unusable("no target in this row") if needs_target and not target else cell(parts, source.encoding)
    extra = {"target": target} if target else {}
    return Item(name, load, said.get("label"), said.get("group"), said.get("split"), extra)


def cell(parts: Sequence[Row], encoding: str | None) -> Load:
    """Loads the text of one or more cells, joined by line breaks."""
    reasons = [part for part in parts if isinstance(part, str)]
    values = [part["text"] for part in parts if isinstance(part, dict)]
    if odd := [value for value in values if isinstance(value, list | dict)]:
        reasons.append(f"not text: a {type(odd[0]).__name__}")
    said = [value if isinstance(value, bytes) else table.text(value) for value in values]
    if not reasons and not any(said):
        reasons.append("no text in this row")
    return unusable(reasons[0]) if reasons else partial(encoded, [value for value in said if value], encoding)


def encoded(values: list[str | bytes], encoding: str | None) -> bytes:
    """Bytes that could not be decoded are given back as they were, for the reason to name them."""
    try:
        errors = "surrogateescape" if encoding is None else "strict"
        return b"\n".join(v if isinstance(v, bytes) else v.encode("utf-8", errors) for v in values)
    except UnicodeEncodeError as error:
        raise BadSample(f"not {encoding or 'UTF-8'}: half a character at {error.start:,}") from error


def clean(value: Any) -> str | None:
    """A cell as a string that Parquet can hold."""
    said = table.text(value)
    return said.encode("utf-8", "replace").decode().strip() or None if said else None
