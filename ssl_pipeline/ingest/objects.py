"""coco and voc: a folder or an archive of images with boxes -> items.

A first pass reads the annotations, a second one the images, so that even a compressed tar, which can only be read forwards, is
never unpacked. An image is found by its name, wherever in the source it lies; of several of that name the one nearest to the
annotation is meant. Nothing outside the source is ever opened.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from ssl_pipeline.ingest import folder, objects_coco, objects_voc
from ssl_pipeline.ingest.archive import files as archive_files
from ssl_pipeline.ingest.folder import Parts
from ssl_pipeline.ingest.image_objects import Entry
from ssl_pipeline.ingest.item import BadSample, Item, Reading, read_file, unusable
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.part import PipelineError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")

Load = Callable[[], bytes]


def read(source: Coco | Voc, path: Path) -> Reading:
    """Raises PipelineError where the source or an annotation file that it names is missing or malformed, or an image stands in
    two splits."""
    images, texts, entries = list[Parts](), dict[str, bytes](), list[Entry]()
    wanted = {
        *source.named.values(),
        *([source.annotations] if isinstance(source, Coco) and source.annotations else ()),
    }
    for parts, load in files(path):
        name, kind = "/".join(parts), os.path.splitext(parts[-1])[1].lower()
        if kind in SUFFIXES:
            images.append(parts)
        elif name in wanted or (isinstance(source, Coco) and not wanted and kind == ".json"):
            if texts and not wanted:
                raise PipelineError(f"{path}: holds several JSON files: name one in annotations, or one a split")
            texts[name] = loaded(load, path, name)
        elif isinstance(source, Voc) and kind == ".xml":
            entries.append(objects_voc.entry(source, parts, load))
    if missing := sorted(wanted - set(texts)):
        raise PipelineError(f"{path}: has no file {missing[0]}: correct what the source names")
    notes = []
    if isinstance(source, Coco):
        if not texts:
            raise PipelineError(f"{path}: holds no JSON file: name the one with annotations")
        for name, text in sorted(texts.items()):
            found, strays = objects_coco.entries(source, text, name, f"{path}: {name}")
            entries += found
            notes += [f"{strays:,} annotations of no image in {name} were passed over"] if strays else []
    elif texts:
        entries, unlisted = objects_voc.in_lists(source, entries, texts, str(path))
        notes += [f"{unlisted:,} annotated images that no list names were passed over"] if unlisted else []
    under = PurePosixPath(source.images or "").parts
    return joined([parts for parts in images if parts[: len(under)] == under], entries, path, notes)


def joined(images: list[Parts], entries: list[Entry], path: Path, notes: list[str]) -> Reading:
    """The images with their entries, in the order in which they are read; entries without an image come last."""
    find = finder(images)
    of_image: dict[Parts, Entry] = {}
    lost: list[tuple[Entry, str]] = []
    for entry in entries:
        found = find(entry)
        if isinstance(found, str):
            lost.append((entry, entry.fault or found))
        elif (other := of_image.setdefault(found, entry)) is not entry:
            if other.split != entry.split:
                name = "/".join(found)
                raise PipelineError(
                    f"{path}: {name} stands in {other.split} and in {entry.split}: take it out of one of them"
                )
            of_image[found] = replace(other, fault="annotated twice")

    def items() -> Iterator[Item]:
        for parts, load in files(path):
            if entry := of_image.get(parts):
                yield item(entry, "/".join(parts), unusable(entry.fault) if entry.fault else load)
        for entry, fault in lost:
            yield item(entry, entry.name, unusable(fault))

    if without := len(images) - len(of_image):
        notes = [*notes, f"{without:,} images without an annotation that counts were passed over"]
    splits = frozenset(entry.split for entry in entries if entry.split)
    return Reading(items(), splits, len(of_image) + len(lost), tuple(notes))


def item(entry: Entry, name: str, load: Load) -> Item:
    return Item(name, load, None, entry.group, entry.split, {"objects": entry.annotation})


def finder(images: list[Parts]) -> Callable[[Entry], Parts | str]:
    """What finds the image of an entry, or says why there is none."""
    named: defaultdict[str, list[Parts]] = defaultdict(list)
    for parts in images:
        for name in {parts[-1], os.path.splitext(parts[-1])[0]}:
            named[name].append(parts)

    def find(entry: Entry) -> Parts | str:
        *above, last = PurePosixPath(entry.name).parts or ("",)
        found = [parts for parts in named.get(last, ()) if [*parts[:-1]][len(parts) - 1 - len(above) :] == above]
        found = found or named.get(entry.hint, [])
        if not found:
            return "no image file"
        shared = [len(os.path.commonprefix([parts[:-1], entry.near])) for parts in found]
        nearest = [parts for parts, depth in zip(found, shared, strict=True) if depth == max(shared)]
        exact = [parts for parts in nearest if parts[-1] in (last, entry.hint)]
        nearest = exact if len(nearest) > 1 and exact else nearest
        return (
            nearest[0]
            if len(nearest) == 1
            else f"several images of that name: {len(nearest)}, name the folder in images"
        )

    return find


def files(path: Path) -> Iterator[tuple[Parts, Load]]:
    """Every visible file of a folder or an archive: (names on its path, how to load it)."""
    if path.is_dir():
        for parts, file, problem in folder.walk(path.resolve()):
            yield parts, unusable(problem) if problem else partial(read_file, file)
    else:
        yield from archive_files(path)


def loaded(load: Load, path: Path, name: str) -> bytes:
    try:
        return load()
    except BadSample as reason:
        raise PipelineError(f"{path}: {name} cannot be read: {reason}") from reason
