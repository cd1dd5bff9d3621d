"""Sentence pairs that nobody has described: two columns, or two files line by line, that are called as languages are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ssl_pipeline.ingest import text_rows
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.text_rows import Open

LANGUAGES = {
    "en": "english", "ar": "arabic", "bg": "bulgarian", "bn": "bengali", "ca": "catalan", "cs": "czech", "da": "danish",
    "de": "german", "el": "greek", "es": "spanish", "et": "estonian", "fa": "persian", "fi": "finnish", "fr": "french",
    "ga": "irish", "he": "hebrew", "hi": "hindi", "hr": "croatian", "hu": "hungarian", "is": "icelandic", "it": "italian",
    "ja": "japanese", "ko": "korean", "lt": "lithuanian", "lv": "latvian", "mt": "maltese", "nl": "dutch", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian", "sr": "serbian", "sv": "swedish",
    "sw": "swahili", "ta": "tamil", "th": "thai", "tr": "turkish", "uk": "ukrainian", "ur": "urdu", "vi": "vietnamese",
    "zh": "chinese",
}  # fmt: skip
"""By their codes in ISO 639-1, without those that columns are called for other reasons, such as `id` and `no`."""
SIDES = (("source", "target"), ("src", "tgt"))
ROWS = 100
"""That are read."""


def in_columns(path: Path, known: list[str], found: Mapping[str, str]) -> Text | None:
    """The source where two columns are two languages of a table; `found` has what other columns are for. Columns of numbers are
    none, nor are `source` and `target` beside a text or a time."""
    plain = {name.lower(): name for name in known}
    sides = [name for name in known if is_language(name)]
    if len(sides) != 2 and not {"text", "time"} & found.keys():
        sides = next(([plain[a], plain[b]] for a, b in SIDES if a in plain and b in plain), [])
    if len(sides) != 2:
        return None
    source = Text(path=str(path), text=sides[0], target=sides[1], group=found.get("group"), split=found.get("split"))
    return source if hold_words(path, source, sides) else None


def hold_words(path: Path, source: Text, columns: list[str]) -> bool:
    """Whether most of each column's first cells have a word in them."""
    read = text_rows.rows(cast(Open, partial(open, path, "rb")), path.name, source)
    first = [row for _, row in islice(read, ROWS) if isinstance(row, dict)]
    return all(2 * sum(map(is_word, (row.get(column) for row in first))) > len(first) for column in columns)


def is_word(cell: Any) -> bool:
    return isinstance(cell, str) and re.search(r"[^\W\d_]", cell) is not None


def in_files(path: Path, names: Iterable[str]) -> Text | None:
    """The source where a folder or an archive holds train.en and train.de, or en.txt and de.txt: of several such pairs that of
    the training, or the first. The other side of English is the target."""
    found: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in names:
        place = PurePosixPath(name)
        stem, _, side = place.name.lower().removesuffix(".gz").removesuffix(".txt").rpartition(".")
        if is_language(side) or any(side in sides for sides in SIDES):
            found[str(place.parent), stem][side] = name
    pairs = {key: sides for key, sides in found.items() if len(sides) == 2}
    if not pairs:
        return None
    chosen = pairs[min(pairs, key=lambda key: ("train" not in key[1], key))]
    first, second = (chosen[side] for side in sorted(chosen, key=lambda side: (not is_english(side), side)))
    if path.is_dir():
        return Text(path=str(path / first), parallel=PurePosixPath(second).name)
    return Text(path=str(path), member=first, parallel=second)


def is_language(name: str) -> bool:
    """en, english, en-GB, en_GB."""
    code = re.fullmatch(r"([a-z]{2})(?:[-_][a-z]{2})?", name.lower())
    return name.lower() in LANGUAGES.values() or (code is not None and code[1] in LANGUAGES)


def is_english(name: str) -> bool:
    return name.lower().startswith("en")
