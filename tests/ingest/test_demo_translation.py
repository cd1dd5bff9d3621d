from __future__ import annotations

import gettext
import sys
from collections import Counter

import polib
import pytest

from ssl_pipeline.ingest import demo_translation as demo
from ssl_pipeline.ingest.dataset import rows
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.part import PipelineError
from ssl_pipeline.recipe import Dataset

try:
    demo.version("messages_en_fr")
except PipelineError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def items():
    return list(demo.read().items)


def test_every_pair_is_usable_and_there_once(items):
    samples = [Texts().read(item.load(), item.extra) for item in items]
    assert len(items) == demo.read().total == 7134
    assert len({sample.columns["text"] for sample in samples}) == len({item.source for item in items}) == len(items)
    assert {item.source.split("/")[0] for item in items} == {m for modules in demo.PACKAGES.values() for m in modules}
    said = {sample.columns["text"]: sample.columns["target"] for sample in samples}
    assert said["Toggle navigation"] == "Changer la navigation"
    assert not any(mark in side for pair in said.items() for side in pair for mark in "<>{}%[]|")
    assert list(demo.read().items)[100].source == items[100].source


def test_targets_are_what_gettext_says(items):
    """Python's own reader, of catalogues that are there compiled, too."""
    compiled = {}
    for package in ("django-oscar", "wagtail", "jupyterlab-language-pack-fr-fr"):
        for name, path in demo._catalogues(package):
            with open(path.with_suffix(".mo"), "rb") as file:
                compiled[name] = gettext.GNUTranslations(file)
    agreed = Counter()
    for item in items:
        text, catalogue = item.load().decode(), compiled.get(item.source.rpartition(" ")[0])
        # messages with a context or with line breaks have other keys
        if catalogue and (target := catalogue.gettext(text)) != text:
            agreed[" ".join(target.split()) == item.extra["target"]] += 1
    assert agreed[True] > 3000 and agreed[False] < 10, agreed


def test_no_message_is_like_one_of_another_split(items, ingest):
    source = {"kind": "demo", "name": "messages_en_fr"}
    stage = ingest(source, split=Dataset(name="a", source=source).split.model_dump())
    splits = ("train", "test")
    words = {split: [demo.words_of(row["text"]) for row in rows(stage.path / "tree", split)] for split in splits}
    assert stage.summary["pairs"] == stage.summary["samples"] == 7134
    closest = max(len(a & b) / len(a | b) for a in words["test"][::5] for b in words["train"] if a | b)
    assert 0.6 < closest < demo.ALIKE


def test_groups_are_joined_by_those_in_between():
    texts = ["a b c", "one two six four", "one two six four five", "two six four five", "The Sixes"]
    assert demo.groups_of(texts) == [texts[0], texts[1], texts[1], texts[1], texts[4]]
    assert demo.words_of("Remove the 3 users!") == demo.words_of("remove user") == {"remove", "user"}


def test_only_plain_and_sure_messages_are_taken():
    entry = polib.POEntry(msgid="Two words", msgstr="Deux mots")
    assert demo.is_sure(entry) and demo.is_plain("Two words", "Deux mots")
    for unsure in (
        polib.POEntry(msgid="Two words", msgstr="Deux mots", flags=["fuzzy"]),
        polib.POEntry(msgid="Two words", msgstr=""),
        polib.POEntry(msgid="Two words", msgstr="Deux mots", obsolete=True),
        polib.POEntry(msgid="A word", msgid_plural="Two words", msgstr_plural={0: "Un mot", 1: "Deux mots"}),
    ):
        assert not demo.is_sure(unsure)
    for text in ("Word", "%(count)s words here", "<b>Two</b> words", "Open {name} now", "&Open it", "two " * 20):
        assert not demo.is_plain(text, "Deux mots")
    assert not demo.is_plain("Docker Compose", "Docker Compose")


def test_nothing_is_imported_and_a_missing_package_is_named(monkeypatch):
    assert list(demo.read().items) and not {"wagtail", "spyder", "oscar", "horizon"} & set(sys.modules)
    monkeypatch.setitem(demo.PACKAGES, "gone", ("not_installed_package",))
    with pytest.raises(PipelineError, match="package gone is not installed"):
        demo.read()
