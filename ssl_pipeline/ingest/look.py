"""A first look at data that nobody has described yet: what it is, and how a recipe would name it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_pipeline.ingest import interactions, readers, series_rows, sniff_masks
from ssl_pipeline.ingest.dataset import printable
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.media import medium_of
from ssl_pipeline.ingest.medium import median
from ssl_pipeline.ingest.sniff import source_of
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.sources import Archive, Folder, Source
from ssl_pipeline.part import PipelineError

SAMPLE = 500
VIDEOS = 20
"""Of which all frames are decoded."""
SIZES = (224, 128, 96, 64, 32)
LENGTHS = (32, 64, 128, 256)
"""Of documents, in tokens."""
WINDOW = 128
"""Steps of a series that are seen at once."""

Tallies = dict[str, Counter[int]]


@dataclass(frozen=True)
class Findings:
    """What a sample of the data shows."""

    source: Source
    samples: int
    classes: dict[str, int] | None
    splits: tuple[str, ...]
    about: str
    """The data in a few words."""
    encoder: dict[str, Any]
    """What a recipe would say of an encoder for it."""
    unusable: float = 0.0
    """Fraction of those that were looked at."""
    notes: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> bool:
        """Whether texts have another side."""
        return isinstance(self.source, Text) and bool(self.source.target or self.source.parallel)


def look(path: Path) -> Findings:
    """Reads some samples, drawn at random, of a folder, an archive, a table or a text file; a log of interactions as a whole.

    Raises PipelineError where there is nothing at `path`, or nothing usable.
    """
    source = source_of(path.expanduser())
    if isinstance(source, InteractionsSource):
        return of_interactions(source)
    source = windowed(source) if isinstance(source, SeriesTable) else source
    source = sniff_masks.described(source) if isinstance(source, Masks) else source
    samples, classes = 0, Counter[str]()
    reading = readers.read(source, Path())
    for item in reading.items:
        samples += 1
        classes.update([item.label] if item.label is not None else [])
    looked_at = min(samples, VIDEOS if source.modality == "video" else SAMPLE)
    chosen = set(random.Random(0).sample(range(samples), looked_at))
    medium, reasons, tallies = medium_of(source), Counter[str](), Tallies()
    tried, usable = set[str](), set[str]()
    for number, item in enumerate(readers.read(source, Path()).items):
        if number not in chosen:
            continue
        tried.add(item.label or "")
        try:
            sample = medium.read(item.load(), item.extra)
        except BadSample as reason:
            reasons[str(reason).partition(":")[0]] += 1
            continue
        usable.add(item.label or "")
        for name, value in sample.counted.items():
            tallies.setdefault(name, Counter())[value] += 1
    if not tallies:
        said = f" ({', '.join(reasons)})" if reasons else ""
        what = (
            f"none of {looked_at} sampled files is usable as {source.modality}{said}" if samples else "holds no files"
        )
        raise PipelineError(f"{path}: {what}: name a folder, an archive, a table or a text file")
    # folders of annotations are no classes
    counts = {printable(name) or "": classes[name] for name in sorted(classes) if name in usable or name not in tried}
    about, encoder, notes = SUITS[source.modality](tallies)
    findings = Findings(
        source, samples, counts or None, tuple(sorted(reading.splits)), about, encoder, reasons.total() / looked_at
    )
    findings.notes.extend([*notes_on(findings, looked_at, reasons), *notes, *reading.notes])
    return findings


def image_size(shorter_side: int) -> int:
    """The largest usual size that is not above the images' own; below 32 a multiple of 4, for a vision transformer's
    patches."""
    usual = next((size for size in SIZES if size <= shorter_side), shorter_side // 4 * 4)
    return max(16, usual)


Suits = tuple[str, dict[str, Any], list[str]]
"""What samples are in words, the encoder that suits them, and notes."""


def image(tallies: Tallies) -> Suits:
    height, width = median(tallies["height"]), median(tallies["width"])
    short, side = min(height, width), image_size(min(height, width))
    notes = []
    if max(height, width) > 2 * short:
        notes.append("Images are far from square; the encoder sees their centre square.")
    if short < 16:
        notes.append(f"Images are {short} pixels on their shorter side; they will be enlarged to {side}.")
    colours = "RGB" if max(tallies["channels"]) > 1 else "grey"
    return f"{colours}, median {width} x {height} pixels", {"backbone": "resnet18", "image_size": side}, notes


def audio(tallies: Tallies) -> Suits:
    rate, seconds = median(tallies["rate"]), median(tallies["milliseconds"]) / 1000
    heard = round(min(max(round(seconds / 0.32) * 0.32, 0.64), 3.84), 2)  # 32 frames a step
    notes = (
        []
        if seconds <= 2 * heard
        else [f"Recordings last {seconds:.1f} s; the encoder hears {heard} s in their middle."]
    )
    encoder = {"kind": "audio", "backbone": "resnet18", "sample_rate": min(rate, 16_000), "seconds": heard}
    return f"sound, median {seconds:.2f} s at {rate:,} Hz", encoder, notes


def video(tallies: Tallies) -> Suits:
    seconds = median(tallies["milliseconds"]) / 1000
    about, pictures, notes = image(tallies)
    every = min(0.1, max(0.02, round(seconds / 10, 2)))
    encoder = {"kind": "video", **pictures, "image_size": min(64, pictures["image_size"]), "every_seconds": every}
    return f"video, {about}, median {seconds:.1f} s", encoder, notes


def text(tallies: Tallies) -> Suits:
    characters = median(tallies["characters"])
    total = sum(length * count for length, count in tallies["characters"].items())
    length = next((n for n in LENGTHS if n >= characters / 4), LENGTHS[-1])
    notes = [] if characters / 4 <= length else [f"Documents are long; the encoder reads their first {length} tokens."]
    vocabulary = min(8000, max(1000, total // 100 // 1000 * 1000))
    encoder = {"kind": "text", "layers": 2, "width": 256, "heads": 4, "length": length, "vocabulary": vocabulary}
    what = "pairs of texts" if "pairs" in tallies else "texts"
    return f"{what}, median {characters:,} characters", encoder, notes


def image_text(tallies: Tallies) -> Suits:
    about, pictures, notes = image(tallies)
    captions = sum(number * count for number, count in tallies["captions"].items()) / tallies["captions"].total()
    towers = {"image": pictures, "text": {"layers": 2, "width": 128, "heads": 2, "vocabulary": 2000}}
    return f"captioned images, {about}, {captions:.1f} captions each", {"kind": "image_text", **towers}, notes


def series(tallies: Tallies) -> Suits:
    steps, channels = median(tallies["steps"]), median(tallies["channels"])
    length = WINDOW if steps >= WINDOW else max(8, steps // 8 * 8)
    patch = 8 if length >= 64 else max(1, length // 8)
    encoder = {"kind": "series", "length": length, "patch": patch}
    if steps != length:
        encoder["fit"] = "stretch"
    return f"windows of {steps} steps of {channels} channels", encoder, []


SUITS: dict[str, Callable[[Tallies], Suits]] = {
    "image": image, "audio": audio, "video": video, "text": text, "image_text": image_text, "series": series
}  # fmt: skip


def windowed(source: SeriesTable) -> SeriesTable:
    """With a window where the table is one recording, of which each split holds some, or where recordings are longer than an
    encoder sees at once."""
    steps = usual_steps(source)
    if source.series is not None:
        return source if steps < 2 * WINDOW else source.model_copy(update={"window": WINDOW})
    return source.model_copy(update={"window": min(WINDOW, max(8, 1 << (steps // 20).bit_length() - 1))})


def usual_steps(source: SeriesTable) -> int:
    """The median length of its recordings."""
    rows = series_rows.load(source, Path(source.path))
    recordings = rows.series.codes if rows.series else [0] * len(rows)
    return median(Counter(Counter(map(int, recordings)).values()))


def of_interactions(source: InteractionsSource) -> Findings:
    """A log is read whole: who is left after the filter depends on all of it."""
    with tempfile.TemporaryDirectory() as folder:
        summary = interactions.write(source, Path(folder) / "tree", Path(), "new", max_quarantined=1.0)
    users, items = summary["samples"], summary["items"]
    about = f"interactions of {users:,} users with {items:,} items, each with {source.k_core} at least"
    encoder = {"kind": "interactions", "width": 128, "layers": 1, "heads": 2, "length": 50}
    found = Findings(source, users, None, (), about, encoder, summary["quarantined_fraction"])
    if summary["reasons"]:
        found.notes.append(f"Some rows would be quarantined: {first_of(summary['reasons'].items())}.")
    return found


def first_of(reasons: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in list(reasons)[:3])


def notes_on(found: Findings, looked_at: int, reasons: Counter[str]) -> list[str]:
    notes = []
    if reasons:
        worst = first_of(reasons.most_common(3))
        notes.append(f"{reasons.total()} of {looked_at} sampled files are unusable and would be quarantined: {worst}.")
    modality = found.source.modality
    if not found.classes:
        if (
            modality not in ("image_text", "video")
            and not found.pairs
            and not isinstance(found.source, Masks | Coco | Voc)
        ):  # these are measured without labels too
            notes.append(
                "No labels: pretraining needs none, but classification has nothing to be measured on. Where file names say them, "
                "add a pattern to the source: pattern: '(?P<label>[a-z]+)_'."
                if isinstance(found.source, Folder | Archive)
                else "No labels: pretraining needs none, but classification has nothing to be measured on."
            )
    elif len(found.classes) == 1:
        notes.append("One class only: classification needs at least two.")
    elif min(found.classes.values()) < 10:
        few = min(found.classes, key=lambda name: found.classes[name] if found.classes else 0)
        notes.append(f"Class {few!r} has only {found.classes[few]} samples: its numbers will be rough.")
    elif max(found.classes.values()) > 10 * min(found.classes.values()):
        notes.append("The largest class has more than ten times the samples of the smallest.")
    if isinstance(found.source, Text) and found.source.parallel:
        sides = f"{found.source.member or Path(found.source.path).name} and {found.source.parallel}"
        notes.append(f"Pairs are the lines of {sides}; what else lies there is passed over.")
    if isinstance(found.source, Masks):
        read = (
            f"; {sniff_masks.READ} masks were read: see that all are there" if found.samples > sniff_masks.READ else ""
        )
        notes.append(f"Give the source's classes in the recipe their names{read}.")
    if found.splits and modality != "series":  # one recording is split by time
        notes.append(f"The source names its own splits: {', '.join(found.splits)}.")
    if found.samples < 1000:
        notes.append(f"{found.samples} samples are few: expect little from pretraining on them alone.")
    return notes
