"""COCO's JSON: `images` (id, file_name), `categories` (id, name), `annotations` (image_id, category_id, bbox as left, top, width,
height, iscrowd)."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from ssl_pipeline.ingest.image_objects import Annotation, Entry, unknown
from ssl_pipeline.ingest.source_objects import Coco
from ssl_pipeline.part import PipelineError

Id = int | str


def entries(source: Coco, text: bytes, file: str, place: str) -> tuple[list[Entry], int]:
    """The images that the file lists, and how many annotations are of none of them. Raises PipelineError where the file is no
    such JSON; what is wrong with a single image is that entry's fault."""
    said = parsed(text, place)
    split = {name: split for split, name in source.named.items()}.get(file)
    names = {key: one.get("name") for key, one in by_id(said["categories"], f"{place}: categories").items()}
    images = by_id(said["images"], f"{place}: images")
    objects: dict[Id, list[dict[str, Any]]] = {key: [] for key in images}
    faults: dict[Id, str] = {}
    strays = 0
    for one in said["annotations"]:
        image = one.get("image_id") if isinstance(one, dict) else None
        if not isinstance(image, Id) or image not in objects:
            strays += 1
            continue
        category = one.get("category_id")
        if not isinstance(category, Id) or category not in names:
            faults.setdefault(image, f"unknown class: id {str(category)[:40]}")
            continue
        ignored = one.get("iscrowd") in (1, True)
        objects[image].append({"label": names[category], "box": edges(one.get("bbox")), "ignored": ignored})
    found = []
    for key, one in images.items():
        name, group = one.get("file_name"), one.get(source.group or "")
        fault = faults.get(key) or unknown(objects[key], source.classes)
        if not isinstance(name, str) or not name:
            name, fault = f"{file}: image {key}", "no file_name"
        size = (one.get("width"), one.get("height"))
        annotation = Annotation(objects[key], size if all(isinstance(n, int) and n > 0 for n in size) else None)  # type: ignore[arg-type]
        group = str(group) if isinstance(group, Id) and group != "" else None
        found.append(Entry(name, PurePosixPath(file).parts[:-1], annotation, fault, "", group, split))
    return found, strays


def parsed(text: bytes, place: str) -> dict[str, list[Any]]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{place}: is no JSON: {' '.join(str(error).split())[:200]}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(said, dict) or not isinstance(said.get(key), list):
            raise PipelineError(f"{place}: has no list of {key}: it is no annotation file of COCO's form")
    return said


def by_id(rows: list[Any], place: str) -> dict[Id, dict[str, Any]]:
    found: dict[Id, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        key = row.get("id") if isinstance(row, dict) else None
        if not isinstance(key, Id):
            raise PipelineError(f"{place}[{number}]: has no id: correct the file")
        if key in found:
            raise PipelineError(f"{place}[{number}]: its id {str(key)[:40]!r} stands there twice: correct the file")
        found[key] = row
    return found


def edges(box: Any) -> list[Any] | None:
    """Left, top, width, height -> left, top, right, bottom; None where these are not four numbers."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(n) in (int, float) for n in box):
        return None
    left, top, width, height = box
    return [left, top, left + width, top + height]
