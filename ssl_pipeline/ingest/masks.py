"""masks: a folder or an archive of images with a mask each -> items.

A first pass reads names and lists, a second one the images. Masks are read by a third beside the second, so that an archive, which
is never unpacked, may be read forwards alone: where images and masks are in the same order one mask is held at a time, where they
are not, those that come too early.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ssl_pipeline.ingest.folder import Layout
from ssl_pipeline.ingest.image_masks import Mask
from ssl_pipeline.ingest.item import BadSample, Item, Reading, unusable
from ssl_pipeline.ingest.objects import SUFFIXES, Load, files, loaded
from ssl_pipeline.ingest.objects_voc import names_in
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.part import PipelineError

Key = Callable[[str], str | None]
"""A file's path -> what it shares with its counterpart's, None where it is another kind of file."""


def read(source: Masks, path: Path) -> Reading:
    """Raises PipelineError where the source or a list that it names is missing, it holds no images or no masks, or a name stands in
    two lists."""
    image_key, mask_key = keys(source)
    images, masks, texts = dict[str, str](), Counter[str](), dict[str, bytes]()
    for parts, load in files(path):
        name = "/".join(parts)
        if name in source.named.values():
            texts[name] = loaded(load, path, name)
        elif key := image_key(name):
            images.setdefault(key, name)  # of several images of that name the others are at fault
        elif key := mask_key(name):
            masks[key] += 1
    if missing := sorted(set(source.named.values()) - set(texts)):
        raise PipelineError(f"{path}: has no file {missing[0]}: correct what the source names")
    for what, found in (("images", images), ("masks", masks)):
        if not found:
            said = getattr(source, what)
            where = f"named {said}" if "*" in said else f"in a folder {said}"
            raise PipelineError(f"{path}: holds no {what} {where}: say in {what} where they are")
    layout = laid_out(images)
    listed = in_lists(source, texts, path)
    kept = {key for key in images if not listed or stem(key) in listed}
    lost = sorted(set(listed) - {stem(key) for key in kept})
    wanted = {key for key in kept if masks[key] == 1}

    def mask_of(key: str, beside: Beside) -> Load:
        if key in wanted:
            return partial(beside.load, key)
        return unusable(f"several masks of that name: {masks[key]}" if masks[key] else "no mask")

    def items() -> Iterator[Item]:
        beside = Beside(path, mask_key, wanted)
        for parts, load in files(path):
            name = "/".join(parts)
            if (key := image_key(name)) not in kept:
                continue
            assert key is not None
            load = load if images[key] == name else unusable("another image of that name")
            split = listed[stem(key)] if listed else layout.place((*key.split("/"),))[1]
            mask = Mask(mask_of(key, beside), source.classes, source.ignore)
            yield Item(name, load, split=split, extra={"mask": mask})
        for name in lost:
            yield Item(name, unusable("no image file"), split=listed[name], extra={})

    notes = []
    if unlisted := len(images) - len(kept):
        notes.append(f"{unlisted:,} images that no list names were passed over")
    if alone := len(set(masks) - set(images)):
        notes.append(f"{alone:,} masks without an image were passed over")
    splits = frozenset(listed.values()) if listed else layout.splits
    return Reading(items(), splits, notes=tuple(notes))


def keys(source: Masks) -> tuple[Key, Key]:
    """What tells images and masks, and which belong together."""
    image, mask = (counterpart(said) for said in (source.images, source.masks))

    def image_key(name: str) -> str | None:
        return None if mask(name) else image(name)

    return image_key, mask


def counterpart(said: str) -> Key:
    """Of a folder's name: the path without that folder and without the file's suffix. Of a pattern: what is before it, and what
    its `*` stand for."""
    middle = (
        "(.+)".join(map(re.escape, said.split("*"))) if "*" in said else rf"{re.escape(said.strip('/'))}/(.+)\.[^./]+"
    )
    pattern = re.compile(f"(.*/|){middle}", re.DOTALL)

    def key(name: str) -> str | None:
        found = pattern.fullmatch(name) if name.lower().endswith(SUFFIXES) else None
        return "".join(found.groups()) if found else None

    return key


def stem(key: str) -> str:
    """As lists name it."""
    return key.rpartition("/")[2]


def laid_out(images: dict[str, str]) -> Layout:
    """Which folders name splits; those that hold everything are passed over."""
    folders = {(*key.split("/")[:-1],) for key in images}
    skip = len(os.path.commonprefix(list(folders)))
    return Layout.of({folder[skip] for folder in folders if len(folder) > skip}, labels=False, skip=skip)


def in_lists(source: Masks, texts: dict[str, bytes], path: Path) -> dict[str, str]:
    """Name -> split. Raises PipelineError where one stands in two lists."""
    split_of: dict[str, str] = {}
    for split, file in source.named.items():
        for name in names_in(texts[file]):
            if (other := split_of.setdefault(name, split)) != split:
                raise PipelineError(f"{path}: {name} stands in {other} and in {split}: take it out of one of the lists")
    return split_of


class Beside:
    """Masks, read on until the one that is asked for."""

    def __init__(self, path: Path, key: Key, wanted: set[str]) -> None:
        self.rest = ((found, load) for parts, load in files(path) if (found := key("/".join(parts))) in wanted)
        self.early: dict[str, Load] = {}

    def load(self, key: str) -> bytes:
        """Once each. Raises BadSample where it cannot be read."""
        while key not in self.early:
            found, load = next(self.rest, (None, None))
            if found is None or load is None:
                raise BadSample("no mask")
            self.early[found] = held(load)
        return self.early.pop(key)()


def held(load: Load) -> Load:
    """What is read now, to be had later."""
    try:
        data = load()
    except BadSample as reason:
        return unusable(f"damaged mask: {reason}")
    return lambda: data
