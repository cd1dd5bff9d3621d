"""Pascal VOC's XML, one file an image: `size`, and `object` with `name`, `bndbox` and `difficult`; and its lists of names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

from ssl_pipeline.ingest.folder import Parts
from ssl_pipeline.ingest.image_objects import Annotation, Entry, unknown
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.source_objects import Voc
from ssl_pipeline.part import PipelineError

LONGEST = 4 << 20
"""Bytes of an XML file."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def entry(source: Voc, parts: Parts, load: Callable[[], bytes]) -> Entry:
    """What one file says, or its fault."""
    name, near = os.path.splitext(parts[-1])[0], parts[:-1]
    try:
        root = tree(load())
    except BadSample as reason:
        return Entry(name, near, fault=f"damaged annotation: {reason}")
    objects = [described(one, source.first_pixel) for one in root.findall("object")]
    width, height = (whole(root.findtext(f"size/{side}")) for side in ("width", "height"))
    file = (root.findtext("filename") or "").strip().replace("\\", "/").split("/")[-1]
    group = (root.findtext(source.group) or "").strip() or None if source.group else None
    annotation = Annotation(objects, (width, height) if width and height else None)
    return Entry(name, near, annotation, unknown(objects, source.classes), file, group)


def tree(data: bytes) -> ElementTree.Element:
    """Raises BadSample where it is no such XML in UTF-8. Entities can grow without bound and name other files: what declares any
    is refused before it is parsed, and as the text is UTF-8 whatever it says of itself, none can hide in another encoding."""
    if len(data) > LONGEST:
        raise BadSample(f"above {LONGEST >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("not in UTF-8") from error
    if "\0" in text:
        raise BadSample("not in UTF-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BadSample("it declares a document type or entities")
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError) as error:
        raise BadSample(f"no XML, {error}") from error
    if root.tag != "annotation":
        raise BadSample("no <annotation> in it")
    return root


def described(one: ElementTree.Element, first_pixel: int) -> dict[str, object]:
    corners = [one.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        left, top, right, bottom = (float(text or "") for text in corners)
        box = [left - first_pixel, top - first_pixel, right, bottom]
    except ValueError:
        box = []  # dropped, and counted
    label = " ".join((one.findtext("name") or "").split())
    return {"label": label, "box": box, "ignored": (one.findtext("difficult") or "").strip() == "1"}


def whole(text: str | None) -> int:
    return int(text) if text and text.strip().isdecimal() and len(text) < 10 else 0


def in_lists(source: Voc, entries: list[Entry], texts: dict[str, bytes], place: str) -> tuple[list[Entry], int]:
    """The entries that the lists name, with their splits, one at fault for each name that has no file, and how many entries none
    of them names. Raises PipelineError where a name stands in two lists."""
    split_of: dict[str, str] = {}
    for split, file in source.named.items():
        for name in names_in(texts[file]):
            if (other := split_of.setdefault(name, split)) != split:
                raise PipelineError(
                    f"{place}: {name} stands in {other} and in {split}: take it out of one of the lists"
                )
    known = {one.name for one in entries}
    named = [replace(one, split=split_of[one.name]) for one in entries if one.name in split_of]
    lost = [
        Entry(name, (), fault="no annotation file", split=split)
        for name, split in split_of.items()
        if name not in known
    ]
    return named + lost, len(entries) - len(named)


def names_in(text: bytes) -> list[str]:
    """A line each: a name, perhaps with a path or a file's suffix, or with VOC's -1, 0 or 1 behind it."""
    names = []
    for line in text.decode("utf-8-sig", "replace").splitlines():
        words = line.split()
        words = words[:-1] if len(words) == 2 and words[1] in ("-1", "0", "1") else words
        name = " ".join(words).replace("\\", "/").split("/")[-1]
        stem, suffix = os.path.splitext(name)
        names.append(stem if suffix.lower() in (".jpg", ".jpeg", ".png", ".xml", ".tif", ".tiff", ".bmp") else name)
    return [name for name in names if name]
