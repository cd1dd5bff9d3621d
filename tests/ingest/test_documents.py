"""Documents from files, folders, tables and archives."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ssl_pipeline.ingest import documents
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.text import MAX_CHARACTERS, Texts
from ssl_pipeline.part import PipelineError


def text_of(item) -> str:
    try:
        return Texts().read(item.load(), item.extra).columns["text"]
    except BadSample as reason:
        return f"! {reason}"


def documents_of(path: Path, **settings) -> list[tuple]:
    """(source, text or reason, label, split) of every item."""
    reading = documents.read(Text(path=str(path), **settings), path)
    return [(item.source, text_of(item), item.label, item.split) for item in reading.items]


def texts(path: Path, **settings) -> list[str]:
    return [text for _, text, _, _ in documents_of(path, **settings)]


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


LINES = "\ufefffirst\r\n\n  \nz\u00f6lf\u2028still the same line\nlast".encode()
EXPECTED = [
    ("line 1", "first", None, None),
    ("line 4", "z\u00f6lf\u2028still the same line", None, None),
    ("line 5", "last", None, None),
]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["news.txt", "news.cor", "news.txt.gz"])
def test_a_document_a_line(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(LINES))
    assert documents_of(tmp_path / name) == EXPECTED


def test_a_document_a_file(tmp_path):
    (tmp_path / "news.txt").write_bytes(LINES)
    (tmp_path / "news.gz").write_bytes(gzip.compress(LINES))
    for name in ("news.txt", "news.gz"):
        (found,) = documents_of(tmp_path / name, per="file")
        assert found[1] == LINES.decode().removeprefix("\ufeff")


def test_bad_lines_are_single_bad_documents(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"good\ncaf\xe9\nx\0y\n" + b"z" * 300 + b"\nfine\n" + b"y" * 300)
    monkeypatch.setattr("ssl_pipeline.ingest.text_rows.MAX_CHARACTERS", 100)
    long = "! oversized: a line above 10 million characters"
    expected = ["good", "! not UTF-8: byte 0xE9 at 3", "! binary: a NUL byte at 1", long, "fine", long]
    assert texts(tmp_path / "a") == expected


def test_another_encoding_has_to_be_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\u00e9\nna\u00efve".encode("cp1252"))
    assert texts(tmp_path / "a.txt") == ["! not UTF-8: byte 0xE9 at 3", "! not UTF-8: byte 0xEF at 2"]
    assert texts(tmp_path / "a.txt", encoding="cp1252") == ["caf\u00e9", "na\u00efve"]
    assert texts(tmp_path / "a.txt", encoding="cp1252", per="file") == ["caf\u00e9\nna\u00efve"]
    (tmp_path / "b.txt").write_bytes("eins\nzw\u00f6lf".encode("utf-16"))
    assert texts(tmp_path / "b.txt", encoding="utf-16") == ["eins", "zw\u00f6lf"]
    (tmp_path / "c.txt").write_bytes(b"ok\n\x81")
    assert texts(tmp_path / "c.txt", encoding="cp1252") == ["ok", "! not cp1252: half a character at 0"]
    with pytest.raises(ValidationError, match="name one as Python does"):
        Text(path="a", encoding="klingon")


FOLDER = {
    "sport/1.txt": b"goal",
    "sport/deep/2.txt.gz": gzip.compress(b"match\nset"),
    "world/3": b"peace",
    "world/4.1993": b"treaty",
    "world/notes.pdf": b"%PDF",
    ".hidden/5.txt": b"x",
}
IN_FOLDER = [
    ("sport/1.txt", "goal", "sport", None),
    ("sport/deep/2.txt.gz", "match\nset", "sport", None),
    ("world/3", "peace", "world", None),
    ("world/4.1993", "treaty", "world", None),
    ("world/notes.pdf", "! not a text file by its name", "world", None),
]


def make_folder(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def test_a_folder_of_documents_with_classes(tmp_path):
    top = make_folder(tmp_path / "news", FOLDER)
    assert documents_of(top) == IN_FOLDER
    assert {label for _, _, label, _ in documents_of(top, labels=False)} == {None}
    by_line = documents_of(top, per="line")
    assert [found[:2] for found in by_line[1:3]] == [
        ("sport/deep/2.txt.gz line 1", "match"), ("sport/deep/2.txt.gz line 2", "set"),
    ]  # fmt: skip


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_folder_in_an_archive(tmp_path, make):
    inside = {f"all/news/{name}": data for name, data in FOLDER.items()}
    path = make(tmp_path / "a.zip", inside | {"all/readme": b"x"})
    found = documents_of(path, member="all/news")
    assert [(name.removeprefix("all/news/"), *rest) for name, *rest in found] == IN_FOLDER
    with pytest.raises(PipelineError, match="has no member 'all/new'; did you mean 'all/news/world/3'"):
        documents_of(path, member="all/new")


def test_folders_that_name_splits(tmp_path):
    top = make_folder(tmp_path, {f"{s}/{c}/1.txt": f"{s} {c}".encode() for s in ("train", "test") for c in "ab"})
    assert documents.read(Text(path="x"), top).splits == {"train", "test"}
    assert documents_of(top)[0] == ("test/a/1.txt", "test a", "a", "test")


def test_a_csv_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'id,text,mood,by\n1,"two\nlines, one ""cell""",good,ann\n2,,bad,bob\n3,short\n', encoding="utf-8-sig"
    )
    found = list(documents.read(Text(path="a", label="mood", group="by"), path).items)
    assert [text_of(item) for item in found] == ['two\nlines, one "cell"', "! no text in this row", "short"]
    assert [(item.label, item.group) for item in found] == [("good", "ann"), ("bad", "bob"), (None, None)]
    with pytest.raises(
        PipelineError, match=r"has no column 'mod'; did you mean 'mood'\? \(columns: id, text, mood, by\)"
    ):
        documents_of(path, label="mod")


def test_columns_by_number_and_joined(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("3,Title,Body\n4,,Only a body\n")
    settings = {"header": False, "text": [2, 3], "label": 1}
    assert [found[1:3] for found in documents_of(path, **settings)] == [("Title\nBody", "3"), ("Only a body", "4")]
    with pytest.raises(PipelineError, match=r"has no column 4 \(columns: 1, 2, 3\)"):
        documents_of(path, header=False, text=4)


def test_a_table_by_tabs_has_no_quotes(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"so she said\tgood\n')
    assert documents_of(tmp_path / "a.tsv", label="label") == [("row 1", '"so she said', "good", None)]


def test_json_lines(tmp_path):
    rows = [
        json.dumps({"text": "first", "label": 1, "to": "erstes"}), "", "{broken", "[1]", '{"text": null}',
        '{"text": ["a"]}', r'{"text": "\ud800x", "to": "y"}', "[" * 100_000, '{"text": 5, "label": true, "to": "f\u00fcnf"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = documents_of(tmp_path / "a.jsonl", label="label")
    assert [text.split(":")[0] for _, text, _, _ in found] == [
        "first", "! not JSON", "! not a JSON object", "! no text in this row", "! not text", "! not UTF-8", "! not JSON", "5",
    ]  # fmt: skip
    assert found[0][0] == "row 1" and found[-1][0] == "row 9" and found[-1][2] == "True"
    reading = documents.read(Text(path="a", target="to"), tmp_path / "a.jsonl")
    assert [item.extra.get("target") for item in reading.items] == [
        "erstes",
        None,
        None,
        None,
        None,
        "y",
        None,
        "f\u00fcnf",
    ]
    assert texts(tmp_path / "a.jsonl", target="to")[3] == "! no target in this row"


@pytest.mark.parametrize("pack", [None, "zip", "gzip"])
def test_parquet(tmp_path, pack):
    table = pa.table(
        {
            "body": pa.array(["eins", None, "drei"], pa.large_string()), "raw": pa.array([b"x", b"\xff", b"z"]),
            "part": ["train", "valid", "test"], "y": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    if pack == "zip":
        path = make_zip(tmp_path / "a.zip", {"deep/a.parquet": path.read_bytes()})
    elif pack == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert documents_of(path, text="body", label="y", split="part") == [
        ("row 1", "eins", "a", "train"), ("row 2", "! no text in this row", "b", "validation"), ("row 3", "drei", "a", "test"),
    ]  # fmt: skip
    assert texts(path, text="raw") == ["x", "! not UTF-8: byte 0xFF at 0", "z"]
    reading = documents.read(Text(path="x", text="body", split="part"), path)
    assert reading.total == 3 and reading.splits == {"train", "validation", "test"}


def test_an_unknown_split_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("text,split\nx,train\ny,holdout\n")
    with pytest.raises(PipelineError, match="row 2: split 'holdout' is none of train"):
        documents.read(Text(path="a", split="split"), tmp_path / "a.csv")


def test_two_parallel_files(tmp_path):
    path = make_zip(
        tmp_path / "a.zip",
        {"en.gz": gzip.compress(b"a dog\n\na cat\nonly here\n"), "de": b"ein Hund\n\neine Katze\n\n", "short": b"x\n"},
    )
    source = Text(path="a", member="en.gz", parallel="de")
    found = list(documents.read(source, path).items)
    assert [(item.source, text_of(item), item.extra.get("target")) for item in found] == [
        ("line 1", "a dog", "ein Hund"), ("line 3", "a cat", "eine Katze"), ("line 4", "! no target in this row", None),
    ]  # fmt: skip
    with pytest.raises(PipelineError, match="short: has fewer lines than .*en.gz.*correct parallel"):
        list(documents.read(source.model_copy(update={"parallel": "short"}), path).items)
    for name, data in (("x.en", b"a\n"), ("x.de", b"b\n")):
        (tmp_path / name).write_bytes(data)
    beside = Text(path="x.en", parallel="x.de")
    assert [item.extra for item in documents.read(beside, tmp_path / "x.en").items] == [{"target": "b"}]
    assert list(documents.named_files(beside, tmp_path / "x.en")) == [tmp_path / "x.en", tmp_path / "x.de"]


def test_damaged_and_missing_files(tmp_path):
    data = gzip.compress(b"line\n" * 10_000)
    (tmp_path / "cut.txt.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "quote.csv").write_text('text\n"never closed\n' + "x" * 100)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing else")
    for name, message in [
        ("cut.txt.gz", "is malformed: Compressed file ended"),
        ("bad.parquet", "is malformed"),
        ("none.txt", "there is no such file or folder"),
    ]:
        with pytest.raises(PipelineError, match=message):
            texts(tmp_path / name)
    (reason,) = texts(tmp_path / "cut.txt.gz", per="file")
    assert reason.startswith("! cannot be read")
    with pytest.raises(PipelineError, match="leave out per"):
        texts(tmp_path / "quote.csv", per="file")


def test_a_quotation_mark_that_never_closes_ends_within_bounds(tmp_path, monkeypatch):
    import csv

    before = csv.field_size_limit(131_072)
    monkeypatch.setattr("ssl_pipeline.ingest.text_rows.MAX_CELL", 200_000)
    (tmp_path / "a.csv").write_text('text\nok\n"open\n' + "x,y\n" * 100_000)
    try:
        with pytest.raises(PipelineError, match="is malformed: field larger than field limit"):
            texts(tmp_path / "a.csv")
        (tmp_path / "b.csv").write_text("text\n" + "x" * 300_000)
        with pytest.raises(PipelineError, match="is malformed: a line is longer than 200,000"):
            texts(tmp_path / "b.csv")
    finally:
        csv.field_size_limit(before)


def test_an_archive_is_refused_whole_as_everywhere(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"fine.txt": b"x", "../evil.txt": b"y"})
    with pytest.raises(PipelineError, match="leads out of the archive"):
        texts(path)


def test_a_gzip_bomb_is_oversized_and_not_unpacked(tmp_path):
    import tracemalloc

    (tmp_path / "bomb.txt").write_bytes(gzip.compress(b"x" * (20 * MAX_CHARACTERS), 1))
    tracemalloc.start()
    assert texts(tmp_path / "bomb.txt", per="file") == ["! oversized: above 10 million characters"]
    assert texts(tmp_path / "bomb.txt") == ["! oversized: a line above 10 million characters"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * MAX_CHARACTERS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": 0}, "greater than or equal to 1"),
        ({"text": 2}, "column 2 in a table with a header: write its name, or set header: false"),
        ({"header": False}, "column 'text' in a table without a header: give its number, counted from 1"),
        ({"label": "text"}, "column 'text' is named twice"),
        ({"target": "to", "parallel": "b.txt"}, "keep one of them"),
        ({"parallel": "b.txt", "per": "file"}, "set per: line"),
        ({"text": []}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit_together(settings, message):
    with pytest.raises(ValidationError, match=message):
        Text(path="a", **settings)


def test_ag_news_from_its_zip():
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "agnews.zip"
    if not path.exists():
        pytest.skip("development data agnews.zip is not beside this checkout")
    source = Text(path=str(path), member="agnews/ag_news_csv/test.csv", header=False, text=(2, 3), label=1)
    found = list(documents.read(source, path).items)
    assert len(found) == 7600 and {item.label for item in found} == {"1", "2", "3", "4"}
    samples = [Texts().read(item.load(), item.extra) for item in found]
    assert len({sample.identity for sample in samples}) == 7600
    assert samples[0].columns["text"].startswith("Fears for T N pension after talks\nUnions representing workers")
