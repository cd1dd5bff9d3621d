from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ssl_pipeline.ingest.columns import identifiers, numbers, read
from ssl_pipeline.part import PipelineError


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([2, 10, None, 2]), ["2", "10", None, "2"]),
        (pa.array([2.0, 10.0, None, np.nan]), ["2", "10", None, None]),
        (pa.array([2.5, 1.0]), ["2.5", "1"]),
        (pa.array(["b", "NA", "", "a"]), ["b", "NA", None, "a"]),
        (pa.array([b"\xc3\xa4", b"b", b"\xff", None]), ["ä", "b", None, None]),
        (pa.array(["x", "y", None, "x"]).dictionary_encode(), ["x", "y", None, "x"]),
        (pa.array([], pa.string()), []),
    ],
)
def test_identifiers_of_every_type_are_sorted_strings(cells, expected):
    halves = pa.chunked_array([cells[:2], cells[2:]])  # each with a dictionary of its own
    codes, distinct = identifiers(halves, "user")
    assert [distinct[code] if code >= 0 else None for code in codes] == expected
    assert distinct == sorted({value for value in expected if value})


def test_what_is_no_identifier_is_refused():
    for cells in (pa.array([[1]]), pa.array([True])):
        with pytest.raises(PipelineError, match="user column holds .* which are no identifiers"):
            identifiers(pa.chunked_array([cells]), "user")


def test_numbers_tell_missing_from_unreadable():
    values, given = numbers(pa.chunked_array([[" 1.5", "", None, "x", "inf", "1e3"]]), "rating")
    np.testing.assert_array_equal(values, [1.5, np.nan, np.nan, np.nan, np.nan, 1000])
    assert given.tolist() == [True, False, False, True, True, True]
    values, given = numbers(pa.chunked_array([pa.array([1, None])]), "rating")
    np.testing.assert_array_equal(values, [1, np.nan])
    assert given.tolist() == [True, False]
    with pytest.raises(PipelineError, match="rating column holds .* which are no numbers"):
        numbers(pa.chunked_array([[[1]]]), "rating")


def test_text_that_is_no_utf8_and_quotes_in_tables_with_tabs(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_bytes(b'\xef\xbb\xbfid:token\tname:token_seq\n1\t"Caf\xe9\n\n2\tplain\tmore\n3\tlast\n')
    found = read(path, {"item": "id", "title": "name"}, ids=("item",), long_text=True)
    assert found.table["title"].to_pylist() == ['"Caf\N{REPLACEMENT CHARACTER}', "last"]
    assert found.row.tolist() == [1, 3] and found.malformed.tolist() == [2]
