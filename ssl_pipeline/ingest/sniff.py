"""Data that nobody has described -> the source that a recipe would name: by what files are called, and columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from ssl_pipeline.ingest import columns, folder, readers, sniff_masks, sniff_pairs, table, text_rows
from ssl_pipeline.ingest.item import SPLIT_NAMES
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.sources import Archive, Folder, Source, Table
from ssl_pipeline.part import PipelineError

FILES = 10_000
"""Whose names are looked at."""
SUFFIXES = {
    "audio": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"),
    "video": (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"),
    "text": (".txt", ".md"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
}
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Tables that may say what is on images beside them."""
TABLES = (*LISTS, ".parquet", ".inter")
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "img", "path", "file", "filename", "file_name", "filepath", "picture", "photo"),
    "audio": ("audio", "audio_path", "wav", "sound"),
    "video": ("video", "video_path", "clip"),
    "caption": ("caption", "captions", "alt_text", "description", "title"),
    "text": ("text", "content", "body", "document", "sentence", "abstract", "review", "message", "comment", "description"),
    "user": ("user", "user_id", "userid", "customer", "customer_id", "visitor_id", "session_id"),
    "item": ("item", "item_id", "itemid", "product", "product_id", "movie_id", "movieid", "track_id", "sku"),
    "time": ("timestamp", "time", "datetime", "date", "ts"),
    "series": (
        "series", "series_id", "recording", "recording_id", "device", "device_id", "sensor", "sensor_id", "machine", "machine_id",
        "station", "station_id", "unit", "unit_id", "patient", "patient_id", "subject", "subject_id",
    ),
    "label": ("label", "class", "category", "target", "class_name", "y"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id", "speaker", "author", "site", "user_id"),
    "split": ("split",),
}  # fmt: skip
"""What columns are called, by their purpose."""


def source_of(path: Path) -> Source:
    """Raises PipelineError where there is nothing at `path`, or a table whose columns say nothing."""
    if not path.exists():
        raise PipelineError(f"{path}: there is nothing: name a folder, an archive, a table or a text file")
    if path.is_dir():
        inside = [path / entry.name for entry in folder.listed(path)]
        if len(inside) == 1 and (inside[0].is_dir() or inside[0].name.lower().endswith(TABLES)):
            return source_of(inside[0])  # the folder around the data
        return of_folder(path)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(SUFFIXES["text"]):
        return Text(path=str(path))
    if name.endswith(TABLES) or table.is_parquet(path):
        return of_table(path)
    archive = Archive(path=str(path))
    names = list(islice(files(archive), FILES))
    if pairs := sniff_pairs.in_files(path, names):
        return pairs
    kind = commonest(names)
    if kind == "text":
        return Text(path=str(path))
    if kind == "image" and (drawn := annotated(path, names) or masks(archive, names)):
        return drawn
    if kind == "image" and any(name.lower().endswith(LISTS) for name in names):
        try:
            readers.read(captioned := CaptionTable(path=str(path)), Path())
        except PipelineError:  # the table says something else
            return archive
        return captioned
    return archive.model_copy(update={"modality": kind})


def of_folder(path: Path) -> Source:
    names = list(islice(files(Folder(path=str(path))), FILES))
    if pairs := sniff_pairs.in_files(path, names):
        return pairs
    kind = commonest(names)
    if kind == "text":
        return Text(path=str(path))
    if kind == "image" and (drawn := annotated(path, names) or masks(Folder(path=str(path)), names)):
        return drawn
    for name in names:  # a table beside the images may hold their captions
        if kind == "image" and name.lower().endswith(LISTS) and "/" not in name:
            found = purposes(header(path / name))
            if "image" in found and "caption" in found:
                return captions(path, found).model_copy(update={"captions": name})
    return Folder(kind=f"{kind}_folder", path=str(path))  # type: ignore[arg-type]


def files(source: Folder | Archive) -> Iterator[str]:
    return (item.source for item in readers.read(source, Path()).items)


def masks(source: Folder | Archive, first: list[str]) -> Masks | None:
    """Of all names: a folder of images may be longer than what is looked at first."""
    cues = {*sniff_masks.IMAGES, *sniff_masks.MASKS}
    cued = any(cues & {*name.split("/")[:-1]} for name in first)
    return sniff_masks.in_files(Path(source.path), files(source)) if cued else None


def annotated(path: Path, names: list[str]) -> Voc | Coco | None:
    """Pascal VOC's layout, a folder Annotations beside the images and lists of names by split; or COCO's JSON."""
    if not any("Annotations/" in name and name.lower().endswith(".xml") for name in names):
        return coco(path, [name for name in names if name.lower().endswith(".json")])
    spelled = {"train": "train", "validation": "val", "test": "test"}
    lists = {split: f"ImageSets/Main/{file}.txt" for split, file in spelled.items()}
    found = {split: next((name for name in names if name.endswith(file)), None) for split, file in lists.items()}
    return Voc(path=str(path), **found)


def coco(path: Path, files: list[str]) -> Coco | None:
    """Where the only JSON file is in COCO's form, or each split has one: instances_train2017.json, valid/_annotations.coco.json."""
    files = [name for name in files if "instances" in PurePosixPath(name).name] or files
    named = {split: name for name in files for split in splits_in(name)}
    try:
        if len(files) == 1:
            readers.read(found := Coco(path=str(path), annotations=files[0]), Path())
        elif len(named) == len(files) > 1:
            readers.read(found := Coco(path=str(path), **named), Path())
        else:
            return None
    except PipelineError:  # it says something else
        return None
    return found


def splits_in(name: str) -> set[str]:
    """The split that a path names, if it is one."""
    found = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_NAMES}
    return found if len(found) == 1 else set()


def of_table(path: Path) -> Source:
    known = header(path)
    found = purposes(known)
    roles = {role: found.get(role) for role in ("label", "group", "split")}
    if {"user", "item", "time"} <= found.keys():
        return InteractionsSource(path=str(path), user=found["user"], item=found["item"], timestamp=found["time"])
    if "image" in found and "caption" in found:
        return captions(path, found)
    for modality in ("image", "audio", "video"):
        if modality in found:
            return Table(path=str(path), modality=modality, file=found[modality], **roles)
    if pairs := sniff_pairs.in_columns(path, known, found):
        return pairs
    if "text" in found:
        return Text(path=str(path), text=found["text"], **roles)
    if "time" in found or "series" in found:
        group = roles["group"] if roles["group"] != found.get("series") else None
        measured = ("y", "target")  # of a series they are mostly measurements
        rest = roles | {"group": group, "label": None if str(roles["label"]).lower() in measured else roles["label"]}
        return SeriesTable(path=str(path), time=found.get("time"), series=found.get("series"), **rest)
    raise PipelineError(
        f"{path}: its columns ({', '.join(known[:20]) or 'none'}) do not tell what it holds: name one image (and caption), audio, "
        "video or text, two by their languages (en, de), or time beside measurements, or user, item and timestamp; or write the "
        "source yourself"
    )


def captions(path: Path, found: Mapping[str, str]) -> CaptionTable:
    return CaptionTable(
        path=str(path),
        image=found["image"],
        caption=found["caption"],
        group=found.get("group"),
        split=found.get("split"),
    )


def header(path: Path) -> list[str]:
    """A table's columns by name. Raises PipelineError where it cannot be read."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return [str(column) for column in text_rows.columns(lambda: open(path, "rb"), path.name, Text(path=str(path)))]
    if table.is_parquet(path):
        return table.columns(path)
    return columns.read_header(path)[0]


def purposes(known: Iterable[str]) -> dict[str, str]:
    """{purpose: the column that is called so}. RecBole writes a column's type behind its name."""
    plain = {name.lower().partition(":")[0]: name for name in known}
    return {
        purpose: plain[name]
        for purpose, names in COLUMNS.items()
        if (name := next((name for name in names if name in plain), None))
    }


def commonest(names: Iterable[str]) -> str:
    """image, audio, video or text: what most files are by their names; image where these say nothing."""
    suffix = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
    counts = Counter(suffix.get(PurePosixPath(name.lower()).suffix) for name in names)
    del counts[None]
    return str(max(counts, key=lambda kind: counts[kind])) if counts else "image"
