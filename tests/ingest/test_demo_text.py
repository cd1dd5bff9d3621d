from __future__ import annotations

from collections import Counter

import pytest

from ssl_pipeline.ingest import demo_text
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.part import PipelineError

try:
    demo_text.version("lee_news")
except PipelineError as missing:
    pytest.skip(str(missing), allow_module_level=True)

WORDS = {"lee_news": 59_890, "wikipedia_stems": 331_339, "newsgroups": 58_146}
DISTINCT = {"lee_news": 293, "wikipedia_stems": 250, "newsgroups": 200}


@pytest.mark.parametrize("name", demo_text.COUNTS)
def test_every_document_is_usable_and_there_once(name):
    reading = demo_text.read(name)
    items = list(reading.items)
    samples = [Texts().read(item.load(), item.extra) for item in items]
    assert len(items) == reading.total and len({sample.identity for sample in samples}) == DISTINCT[name]
    assert len({item.source for item in items}) == len(items)
    assert sum(len(sample.columns["text"].split()) for sample in samples) == pytest.approx(WORDS[name], rel=1e-4)


def test_posts_have_labels_and_authors_and_no_headers():
    items = list(demo_text.items("newsgroups"))
    assert Counter(item.label for item in items) == {"alt.atheism": 100, "sci.space": 100}
    assert all(item.group for item in items) and len({item.group for item in items}) == 124
    for item in items:
        text = item.load().decode()
        assert not text.startswith(("Newsgroups:", "Xref:", "Path:", "From:"))
    assert {item.label for item in demo_text.items("lee_news")} == {None}


def test_gensim_is_not_imported():
    import sys

    assert list(demo_text.items("lee_news")) and "gensim" not in sys.modules


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(demo_text, "PACKAGE", "not_installed_package")
    with pytest.raises(PipelineError, match="package not_installed_package is not installed"):
        demo_text.read("lee_news").items.__next__()
