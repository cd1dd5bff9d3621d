"""Source -> dataset: every usable sample once, in shards by split; everything else in quarantine with its reason.

A sample's identity is its decoded content (of an image its pixels), and its split a hash of that identity, or of its
group: adding data moves no sample to another split. Of equal samples the first in the source's order is kept, whatever
their splits.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from ssl_pipeline.ingest import readers
from ssl_pipeline.ingest.item import SPLITS, BadSample, Item, Reading
from ssl_pipeline.ingest.media import medium_of
from ssl_pipeline.ingest.medium import Medium
from ssl_pipeline.ingest.shards import Shards, rows
from ssl_pipeline.part import PipelineError
from ssl_pipeline.recipe import Dataset, Split
from ssl_pipeline.store import write_json

__all__ = ["rows", "split_of", "write"]


@dataclass
class Census:
    """What is counted while streaming; nothing here grows with the number of samples."""

    splits: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    groups: set[str] = field(default_factory=set)
    tallies: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """What the medium counts."""


@dataclass
class Quarantine:
    """What was left out: bad files with their reasons, and repeats with the identity they share."""

    bad: list[tuple[str, str]] = field(default_factory=list)
    repeats: list[tuple[str, str | None, str]] = field(default_factory=list)
    """(source, label, sample_id)"""

    def reasons(self) -> dict[str, int]:
        """Counts by reason, the commonest first; details behind a colon do not count."""
        kinds = Counter(reason.partition(":")[0] for _, reason in self.bad)
        return dict(kinds.most_common()) | ({"duplicate": len(self.repeats)} if self.repeats else {})


def write(dataset: Dataset, root: Path, tree: Path) -> dict[str, Any]:
    """Fills `tree` with shards, quarantine.parquet and dataset.json; returns the stage's summary.

    Raises PipelineError where nothing is usable, more is unusable than `max_quarantined`, or a split stays empty.
    """
    census, quarantine = Census(), Quarantine()
    tree.mkdir()
    reading = readers.read(dataset.source, root, dataset.split)
    medium = medium_of(dataset.source)
    with Shards(tree, medium) as shards:
        total = _stream(reading, medium, dataset.split, shards, census, quarantine)
    _check(dataset, total, census, quarantine)
    _write_quarantine(tree, quarantine)
    about = {
        "name": dataset.name, "modality": dataset.source.modality, "samples": census.splits.total(),
        "splits": {split: census.splits[split] for split in SPLITS},
        "classes": sorted(census.labels) or None, "labelled": census.labels.total(),
        **medium.summary(census.tallies),
        "quarantined": len(quarantine.bad) + len(quarantine.repeats), "format": 1,
    }  # fmt: skip
    write_json(tree / "dataset.json", about)
    notes = [*reading.notes, *_uneven(dataset.split, census, reading.splits)]
    about |= {"notes": notes} if notes else {}
    return about | {"quarantined_fraction": round(len(quarantine.bad) / total, 6), "reasons": quarantine.reasons()}


def split_of(key: str, split: Split, missing: Iterable[str] = SPLITS) -> str:
    """The split of a sample_id or group by a hash of it: test below `test`, validation in the stretch above it, else
    train. Of the held-out splits only those in `missing` are given."""
    place = int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64
    chosen = "test" if place < split.test else "validation" if place < split.test + split.validation else "train"
    return chosen if chosen in missing else "train"


def _stream(
    reading: Reading, medium: Medium, split: Split, shards: Shards, census: Census, quarantine: Quarantine
) -> int:
    """One pass over the source; returns the number of items. Held in memory: the identities, what is in
    quarantine, and a row group a split."""
    # a source that names train and test but no validation gets one out of its train, and likewise for test
    missing = frozenset(SPLITS) - reading.splits
    seen: set[bytes] = set()
    groups: dict[str, str] = {}
    total = 0
    for item in _progress(reading):
        total += 1
        source, label, group = (printable(text) for text in (item.source, item.label, item.group))
        assert source is not None
        try:
            sample = medium.read(item.load(), item.extra)
        except BadSample as reason:
            quarantine.bad.append((source, str(reason)))
            continue
        identity = sample.identity
        if bytes.fromhex(identity) in seen:
            quarantine.repeats.append((source, label, identity))
            continue
        seen.add(bytes.fromhex(identity))
        chosen = item.split
        if chosen in (None, "train"):
            chosen = split_of(group or identity, split, missing if chosen else SPLITS)
        assert chosen is not None
        if group and reading.splits and groups.setdefault(group, chosen) != chosen:
            raise PipelineError(
                f"group {group!r} stands in {groups[group]} and in {chosen}: correct the split column or leave it out"
            )
        row = {"sample_id": identity, "label": label, "group": group, "source": source}
        shards.add(chosen, row | sample.columns)
        census.splits[chosen] += 1
        if group:
            census.groups.add(group)
        for name, value in sample.counted.items():
            census.tallies[name][value] += 1
        if label is not None:
            census.labels[label] += 1
    return total


def _uneven(split: Split, census: Census, named: frozenset[str]) -> list[str]:
    """A note where few groups leave splits far from what was asked for."""
    asked = {"train": 1 - split.validation - split.test, "validation": split.validation, "test": split.test}
    shares = {name: census.splits[name] / census.splits.total() for name in SPLITS}
    if named or not census.groups or max(abs(shares[name] - asked[name]) for name in SPLITS) < 0.1:
        return []
    told = ", ".join(f"{shares[name]:.0%} {name} ({asked[name]:.0%} asked for)" for name in SPLITS)
    cure = "change the split's fractions, or say in a column `split` of a table which group goes where"
    return [f"{len(census.groups)} groups, none of which is divided, make uneven splits: {told}; {cure}"]


def _progress(reading: Reading) -> Iterable[Item]:
    console = Console(stderr=True)
    hide = reading.total is None or not sys.stderr.isatty()
    return track(reading.items, "reading", total=reading.total, console=console, disable=hide, transient=True)


def printable(text: str | None) -> str | None:
    """File names may hold bytes that are no UTF-8; Parquet's strings may not."""
    return None if text is None else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _check(dataset: Dataset, total: int, census: Census, quarantine: Quarantine) -> None:
    samples, bad = census.splits.total(), len(quarantine.bad)
    commonest = ", ".join(f"{reason} ({count})" for reason, count in list(quarantine.reasons().items())[:3])
    if total == 0:
        raise PipelineError("the source holds no files: correct its path")
    if samples == 0:
        raise PipelineError(
            f"none of {total} files is a usable {dataset.source.modality}: {commonest}; correct the source's path or the files"
        )
    if bad / total > dataset.max_quarantined:
        raise PipelineError(
            f"{bad} of {total} files are unusable, more than max_quarantined {dataset.max_quarantined:g} allows: "
            f"{commonest}; fix the files or raise max_quarantined"
        )
    if empty := [split for split in SPLITS if not census.splits[split]]:
        raise PipelineError(
            f"{samples} distinct samples leave {' and '.join(empty)} empty: add data or change the split's fractions"
        )


def _write_quarantine(tree: Path, quarantine: Quarantine) -> None:
    """Repeats get the name of the sample that was kept, the first in the source's order."""
    wanted = {identity for _, _, identity in quarantine.repeats}
    kept: dict[str, tuple[str, str | None]] = {}
    if wanted:
        for row in rows(tree, columns=["sample_id", "source", "label"]):
            if row["sample_id"] in wanted:
                kept[row["sample_id"]] = row["source"], row["label"]
    entries = list(quarantine.bad)
    for source, label, identity in quarantine.repeats:
        first, other = kept[identity]
        entries.append((source, f"duplicate of {first}" + (" with another label" if label != other else "")))
    entries.sort()
    columns = {"source": [source for source, _ in entries], "reason": [reason for _, reason in entries]}
    table = pa.table(columns, pa.schema([("source", pa.string()), ("reason", pa.string())]))
    pq.write_table(table, tree / "quarantine.parquet", compression="zstd")
