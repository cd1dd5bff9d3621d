"""text: the rules for what a document is, and when two of them are the same."""

from __future__ import annotations

import codecs
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import INT, TEXT, Sample, ranges

MAX_CHARACTERS = 10_000_000
"""Of a document."""
MARKS = 100
"""Combining marks in a row; ordering more of them, as normalisation does, takes time in the square of their number."""


class Texts:
    """Documents, as ingestion sees them. `extra["target"]` is the other side of a pair."""

    columns = {"text": TEXT, "target": TEXT, "characters": INT}

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        text, target = decode(data), extra.get("target")
        if target is not None:
            try:
                target = decode(target.encode())
            except BadSample as reason:
                raise BadSample(f"target {reason}") from reason
        columns = {"text": text, "target": target, "characters": len(text)}
        counted = {"characters": len(text)} | ({"pairs": 1} if target is not None else {})
        return Sample(identity(text, target), columns, counted)

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        lengths = {name: value[0] for name, value in ranges(tallies, "characters").items()}
        total = sum(length * count for length, count in tallies["characters"].items())
        pairs = {"pairs": tallies["pairs"].total()} if "pairs" in tallies else {}
        return {"characters": lengths | {"total": total}} | pairs


def decode(data: bytes) -> str:
    """UTF-8 text without its byte order mark. Raises BadSample with the reason."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadSample("not UTF-8: it begins as UTF-16 does, set the source's encoding")
    if (place := data.find(b"\0")) >= 0:
        raise BadSample(f"binary: a NUL byte at {place:,}")
    if len(data) > 4 * MAX_CHARACTERS:
        raise BadSample("oversized: above 10 million characters")
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadSample(f"not UTF-8: byte 0x{data[error.start]:02X} at {error.start:,}") from error
    if len(text) > MAX_CHARACTERS:
        raise BadSample(f"oversized: {len(text):,} characters, above 10 million")
    if not text.strip():
        raise BadSample("empty: no character but white space" if text else "empty")
    if not text.isascii() and bytes([1]) * MARKS in bytes(map(bool, map(unicodedata.combining, text))):
        raise BadSample(f"not text: {MARKS} combining marks in a row")
    return text


def identity(text: str, target: str | None) -> str:
    """BLAKE2b-128 of the text, and of its pair's other side, in normal form C with white space collapsed."""
    sides = [text] if target is None else [text, target]
    normal = "\0".join(" ".join(unicodedata.normalize("NFC", side).split()) for side in sides)
    return hashlib.blake2b(normal.encode(), digest_size=16).hexdigest()
