"""A first look at data that nobody has described yet: what it is, and how a recipe would name it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ssl_pipeline.ingest import readers, table
from ssl_pipeline.ingest.dataset import printable
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import median
from ssl_pipeline.ingest.sources import Archive, Folder, Source, Table
from ssl_pipeline.part import PipelineError

SAMPLE = 500
SIZES = (224, 128, 96, 64, 32)

IMAGE_COLUMNS = ("image", "image_path", "img", "path", "file", "filename", "file_name", "filepath", "picture", "photo")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "y")
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "speaker", "site", "user_id")


@dataclass(frozen=True)
class Findings:
    """What a sample of the files shows. `size` is the median [height, width] in pixels."""

    source: Source
    files: int
    classes: dict[str, int] | None
    splits: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    unreadable: float
    """Fraction of the sampled files."""
    image_size: int
    """The side that suits an encoder: no larger than the median shorter side, at least 16."""
    notes: list[str] = field(default_factory=list)


def look(path: Path) -> Findings:
    """Decodes up to 500 files, drawn at random, of a folder, an archive or a table.

    Raises PipelineError where there is nothing at `path`, or nothing usable.
    """
    path = path.expanduser()
    source = _source(path)
    files, classes = 0, Counter[str]()
    reading = readers.read(source, Path())
    for item in reading.items:
        files += 1
        classes.update([item.label] if item.label is not None else [])
    reasons, heights, widths, channels, sampled = Counter[str](), Counter[int](), Counter[int](), 1, 0
    chosen = set(random.Random(0).sample(range(files), min(files, SAMPLE)))
    tried, usable = set[str](), set[str]()
    for number, item in enumerate(readers.read(source, Path()).items):
        if number not in chosen:
            continue
        sampled += 1
        tried.add(item.label or "")
        try:
            image = decode(item.load())
        except BadSample as reason:
            reasons[str(reason).partition(":")[0]] += 1
            continue
        usable.add(item.label or "")
        heights[image.height] += 1
        widths[image.width] += 1
        channels = max(channels, len(image.getbands()))
    if not heights:
        what = f"none of {sampled} sampled files is a usable image" if files else "holds no files"
        raise PipelineError(f"{path}: {what}: name a folder, an archive or a table of images")
    size = median(heights), median(widths)
    # folders of annotations are no classes
    counts = {printable(name) or "": classes[name] for name in sorted(classes) if name in usable or name not in tried}
    splits = tuple(sorted(reading.splits))
    suits = image_size(min(size))
    findings = Findings(source, files, counts or None, splits, channels, size, reasons.total() / sampled, suits)
    findings.notes.extend(_notes(findings, sampled, reasons))
    return findings


def image_size(shorter_side: int) -> int:
    """The largest usual size that is not above the images' own; below 32 a multiple of 4, for a vision transformer's
    patches."""
    usual = next((size for size in SIZES if size <= shorter_side), shorter_side // 4 * 4)
    return max(16, usual)


def _source(path: Path) -> Source:
    if path.is_dir():
        return Folder(path=str(path))
    if not path.exists():
        raise PipelineError(f"{path}: there is nothing: name a folder, an archive or a table of images")
    if not (path.suffix.lower() in (".csv", ".parquet") or table.is_parquet(path)):
        return Archive(path=str(path))
    known = {name.lower(): name for name in table.columns(path)}
    image, label, group = (
        next((known[name] for name in names if name in known), None)
        for names in (IMAGE_COLUMNS, LABEL_COLUMNS, GROUP_COLUMNS)
    )
    if image is None:
        raise PipelineError(
            f"{path}: no column looks like images (columns: {', '.join(known.values()) or 'none'}): name one 'image'"
        )
    return Table(path=str(path), file=image, label=label, group=group, split=known.get("split"))


def _notes(found: Findings, sampled: int, reasons: Counter[str]) -> list[str]:
    notes = []
    if reasons:
        worst = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        notes.append(f"{reasons.total()} of {sampled} sampled files are unusable and would be quarantined: {worst}.")
    if not found.classes:
        notes.append("No labels: pretraining needs none, but classification has nothing to be measured on.")
    elif len(found.classes) == 1:
        notes.append("One class only: classification needs at least two.")
    elif min(found.classes.values()) < 10:
        few = min(found.classes, key=lambda name: found.classes[name] if found.classes else 0)
        notes.append(f"Class {few!r} has only {found.classes[few]} files: its numbers will be rough.")
    elif max(found.classes.values()) > 10 * min(found.classes.values()):
        notes.append("The largest class has more than ten times the files of the smallest.")
    if found.splits:
        notes.append(f"The source names its own splits: {', '.join(found.splits)}.")
    if found.files < 1000:
        notes.append(f"{found.files} files are few: expect little from pretraining on them alone.")
    if max(found.size) > 2 * min(found.size):
        notes.append("Images are far from square; the encoder sees their centre square.")
    if min(found.size) < 16:
        notes.append(
            f"Images are {min(found.size)} pixels on their shorter side; they will be enlarged to {found.image_size}."
        )
    return notes
