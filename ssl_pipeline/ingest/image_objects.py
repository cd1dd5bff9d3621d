"""Images with boxes around objects, in the eyes of ingestion. A sample's identity is its pixels alone: annotated twice, it is
still one image, and cannot stand in two splits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ssl_pipeline.ingest.images import decode, sample_id
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE, INT, Column, Sample, ranges

MOST = 10_000
"""Objects in an image."""
LONGEST = 100
"""Characters of a class's name."""
THINNEST = 0.01
"""Pixels: what is thinner has no area in 32-bit numbers."""

BOX = pa.list_(pa.float32(), 4)
OBJECT = pa.struct([("label", pa.string()), ("box", BOX), ("ignored", pa.bool_())])


@dataclass(frozen=True)
class Annotation:
    """What is said of an image: its objects, and the size for which that was said, if it was."""

    objects: list[dict[str, Any]]
    """`label`; `box`, four numbers: left, top, right, bottom edge in pixels; `ignored`."""
    size: tuple[int, int] | None = None
    """Width and height."""


@dataclass(frozen=True)
class Entry:
    """An image as an annotation describes it, before its file is found."""

    name: str
    """A path or the end of one, or a file's stem."""
    near: tuple[str, ...]
    """The folder of the annotation."""
    annotation: Annotation = Annotation([])
    fault: str | None = None
    """Why the annotation is of no use."""
    hint: str = ""
    """The file's name, where several have that stem."""
    group: str | None = None
    split: str | None = None


def unknown(objects: Iterable[Mapping[str, Any]], classes: Collection[str]) -> str | None:
    """The fault of an image with an object of none of these classes; without any, all are known."""
    others = {one["label"] for one in objects} - set(classes) if classes else ()
    return f"unknown class: {min(map(repr, others))}" if others else None


class ImageObjects:
    """As `Images`, with the boxes that `extra["objects"]` holds: an Annotation, or a list of its objects."""

    columns: dict[str, Column] = {
        "image": (FILE, {"_type": "Image"}),
        "objects": (
            pa.list_(OBJECT),
            {
                "feature": {
                    "label": {"dtype": "string", "_type": "Value"},
                    "box": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "List"},
                    "ignored": {"dtype": "bool", "_type": "Value"},
                },
                "_type": "List",
            },
        ),
        "height": INT,
        "width": INT,
    }

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        said = extra["objects"]
        annotation = said if isinstance(said, Annotation) else Annotation(list(said))
        image = decode(data)
        if annotation.size and annotation.size != image.size:
            width, height = annotation.size
            raise BadSample(f"size differs: annotated at {width}x{height}, the image has {image.width}x{image.height}")
        objects, counted = tidy(annotation.objects, image.width, image.height)
        size = {"height": image.height, "width": image.width}
        return Sample(
            sample_id(image),
            {"image": {"bytes": data, "path": None}, "objects": objects, **size},
            {**size, "channels": len(image.getbands()), **counted},
        )

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        def total(name: str) -> int:
            return sum(number * count for number, count in tallies[name].items())

        of_class = {name.removeprefix("class "): total(name) for name in sorted(tallies) if name.startswith("class ")}
        return {
            "channels": max(tallies["channels"]),
            "sizes": ranges(tallies, "height", "width"),
            "objects": {"classes": of_class, **ranges(tallies, "objects"), "without": tallies["objects"][0]}
            | {name: total(name) for name in ("ignored", "clipped", "dropped")},
        }


def tidy(objects: Iterable[Mapping[str, Any]], width: int, height: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Objects with boxes inside the image, the same one once; and how many of each class (`class NAME`) and in all (`objects`)
    there are, were `ignored`, `clipped` at the image's edge, or `dropped`: boxes that are not four finite numbers, inverted,
    without area, or outside. Raises BadSample where there are very many, or one has no name."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    counts = Counter({"objects": 0, "ignored": 0, "clipped": 0, "dropped": 0})
    for number, one in enumerate(objects):
        if number == MOST:
            raise BadSample(f"too many objects: more than {MOST:,}")
        label = name_of(one["label"])
        edges = inside(one["box"], width, height)
        if edges is None:
            counts["dropped"] += 1
            continue
        box, clipped = edges
        counts["clipped"] += clipped
        kept.setdefault((label, *box), {"label": label, "box": box, "ignored": bool(one.get("ignored", False))})
    for one in kept.values():
        counts["ignored" if one["ignored"] else "objects"] += 1
        counts[f"class {one['label']}"] += not one["ignored"]
    return list(kept.values()), dict(counts)


def name_of(label: Any) -> str:
    """A class's name in one line. Raises BadSample where it is none."""
    text = label.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(label, str) else ""
    name = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not name or len(name) > LONGEST:
        raise BadSample("object without a name" if not name else f"object with a name of {len(name):,} characters")
    return name


def inside(box: Any, width: int, height: int) -> tuple[list[float], bool] | None:
    """The part of a box in the image, and whether that is less than all of it; None where there is none."""
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return None
    clipped = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < THINNEST:
        return None
    return clipped, clipped != [left, top, right, bottom]
