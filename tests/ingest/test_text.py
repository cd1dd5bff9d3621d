"""What a document is: its decoding, its faults and its identity."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.shards import schema_of
from ssl_pipeline.ingest.text import MAX_CHARACTERS, Texts, decode, identity


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty: no character but white space"),
        ("caf\u00e9".encode("latin-1"), "not UTF-8: byte 0xE9 at 3"),
        (b"x" * 1204 + b"\xe9t", "not UTF-8: byte 0xE9 at 1,204"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8: byte 0xFF at 5"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0xED at 0"),
        ("plain".encode("utf-16"), "not UTF-8: it begins as UTF-16 does, set the source's encoding"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary: a NUL byte at 8"),
        (b"x" * (MAX_CHARACTERS + 1), "oversized: 10,000,001 characters, above 10 million"),
        (b"x" * (4 * MAX_CHARACTERS + 1), "oversized: above 10 million characters"),
        (("a" + "\u0301\u0316" * 60).encode(), "not text: 100 combining marks in a row"),
    ],
)
def test_what_is_no_document_says_why(data, reason):
    with pytest.raises(BadSample) as error:
        decode(data)
    assert str(error.value) == reason


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert decode("\ufeffW\u00f6rter".encode()) == "W\u00f6rter"


def test_marks_that_would_take_hours_to_order_are_refused_at_once():
    started = time.perf_counter()
    with pytest.raises(BadSample, match="combining marks"):
        Texts().read(("a" + "\u0301\u0316" * 2_000_000).encode(), {})
    assert time.perf_counter() - started < 5


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_reason(data):
    try:
        sample = Texts().read(data, {})
    except BadSample as reason:
        assert str(reason)
    else:
        assert sample.columns["text"].encode() == data.removeprefix(b"\xef\xbb\xbf")
        assert len(sample.identity) == 32 and sample.counted == {"characters": len(sample.columns["text"])}


def test_equal_texts_are_the_same_sample_however_they_are_spaced_and_composed():
    assert identity("caf\u00e9  au\nlait ", None) == identity("cafe\u0301 au lait", None)
    assert identity("a b", None) != identity("ab", None) != identity("AB", None)
    assert identity("a dog", "ein Hund") == identity("a  dog", "ein Hund ")
    assert len({identity("a dog", target) for target in (None, "ein Hund", "der Hund")}) == 3


def test_a_pairs_other_side_is_checked_too():
    assert Texts().read(b"a dog", {"target": "ein Hund"}).columns["target"] == "ein Hund"
    for target, reason in [("\0", "target binary"), (" ", "target empty"), ("\u0301" * 100, "target not text")]:
        with pytest.raises(BadSample, match=reason):
            Texts().read(b"a dog", {"target": target})


def test_columns_and_summary():
    schema = schema_of(Texts())
    assert schema.names == ["sample_id", "text", "label", "group", "source", "target", "characters"]
    assert Texts().read(b"a dog", {"target": "ein Hund"}).counted == {"characters": 5, "pairs": 1}
    assert Texts().summary({"characters": Counter([5]), "pairs": Counter([1])})["pairs"] == 1
    assert Texts().summary({"characters": Counter({3: 2, 10: 1, 20: 1})}) == {
        "characters": {"min": 3, "median": 3, "max": 20, "total": 36}
    }
