"""Images with captions: every form of table and container, real photos, and what hostile ones are answered."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_pipeline.ingest.caption_table import Table, entries_of
from ssl_pipeline.ingest.image_text import ImageText, named_files, read, tidy
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.part import PipelineError
from tests.conftest import repository_data

ROWS = "image,caption\na.png,A dog .\nb.png,Two cats\na.png,The dog runs\n"


def source(**parts):
    return CaptionTable.model_validate({"path": "x"} | parts)


def outcomes(path, **parts):
    """{source: captions, or the reason why not}, in order."""
    medium, out = ImageText(), {}
    for item in read(source(**parts), path).items:
        try:
            out[item.source] = medium.read(item.load(), item.extra).columns["captions"]
        except BadSample as reason:
            out[item.source] = str(reason)
    return out


@pytest.fixture
def folder(tmp_path, png):
    """captions.csv, and a.png and b.png in a folder below it."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "other").mkdir()
    for seed, name in enumerate("ab"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(png(seed))
    (tmp_path / "captions.csv").write_text(ROWS)
    return tmp_path


CAPTIONS = {"a.png": ["A dog .", "The dog runs"], "b.png": ["Two cats"]}


@pytest.mark.parametrize("form", ["folder", "table", "zip", "tar", "tar.gz", "inner"])
def test_rows_of_an_image_are_its_captions_wherever_the_table_lies(folder, form):
    path = {"folder": folder, "table": folder / "captions.csv"}.get(form, folder / f"x.{form}")
    if form in ("zip", "inner"):
        with zipfile.ZipFile(path, "w") as archive:
            top = "deep/down/" if form == "inner" else ""
            archive.write(folder / "pictures" / "b.png", f"{top}pictures/b.png")
            archive.write(folder / "pictures" / "a.png", f"{top}pictures/a.png")
            archive.write(folder / "captions.csv", f"{top}captions.csv")
    elif form.startswith("tar"):
        with tarfile.open(path, "w:gz" if form.endswith("gz") else "w") as archive:
            archive.add(folder / "pictures" / "a.png", "pictures/a.png")
            archive.add(folder / "captions.csv", "captions.csv")
            archive.add(folder / "pictures" / "b.png", "pictures/b.png")
    assert outcomes(path) == CAPTIONS
    files = [file.name for file in named_files(source(), path)]
    assert files == (["captions.csv", "a.png", "b.png"] if form in ("folder", "table") else [path.name])


def test_every_format_says_the_same(folder, png):
    records = [dict(zip(("image", "caption"), line.split(","), strict=True)) for line in ROWS.splitlines()[1:]]
    (folder / "captions.csv").unlink()
    tables = {
        "t.tsv": ROWS.replace(",", "\t").encode(),
        "t.jsonl": b"\xef\xbb\xbf" + "\n\n".join(json.dumps(record) for record in records).encode(),
        "lists.jsonl": "\n".join(json.dumps({"image": k, "caption": v}) for k, v in CAPTIONS.items()).encode(),
    }
    for name, content in tables.items():
        (folder / name).write_bytes(content)
        assert outcomes(folder / name) == CAPTIONS, name
        (folder / name).unlink()
    pq.write_table(pa.Table.from_pylist(records), folder / "t.parquet")
    assert outcomes(folder) == CAPTIONS
    inline = [r | {"image": {"bytes": png("ab".index(r["image"][0])), "path": r["image"]}} for r in records]
    pq.write_table(pa.Table.from_pylist(inline), folder / "bytes.parquet")
    assert outcomes(folder / "bytes.parquet") == {"row 1": CAPTIONS["a.png"], "row 2": CAPTIONS["b.png"]}


def test_labels_groups_and_splits_are_read_and_a_disagreement_is_named(folder):
    (folder / "captions.csv").write_text(
        "image,caption,kind,album,part\na.png,x,dog,1,train\na.png,y,,1,train\nb.png,z,cat,2,val\nb.png,w,dog,2,val\n"
    )
    reading = read(source(label="kind", group="album", split="part"), folder)
    first, second = reading.items
    assert reading.splits == {"train", "validation"} and reading.total == 2
    assert (first.label, first.group, first.split) == ("dog", "1", "train")
    with pytest.raises(BadSample, match="rows disagree: label 'cat' and 'dog'"):
        second.load()


def test_identity_is_pixels_and_captions_whatever_their_order(png, encode, picture):
    def identity(data, *captions):
        return ImageText().read(data, {"captions": captions}).identity

    same = identity(png(0), "a", "b")
    assert same == identity(encode(picture(0), "BMP"), "b", "a", "a ")
    assert len({same, identity(png(1), "a", "b"), identity(png(0), "a"), identity(png(0), "ab")}) == 4


def test_captions_are_tidied():
    assert tidy(["  A\tdog\n runs\x00fast ", "", " ", "A dog runs fast"]) == (["A dog runs fast"], 0)
    assert tidy(["cafe\u0301"]) == (["café"], 0)
    assert tidy(["\ud83d\ude00 \udc80"]) == (["😀 \ufffd"], 0)
    kept, cut = tidy(["x" * 5000, "short"])
    assert (len(kept[0]), kept[1], cut) == (1000, "short", 1)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=())), max_size=4))
def test_tidied_captions_can_be_stored_and_are_stable(captions):
    kept, _ = tidy(captions)
    pa.array(kept, pa.string())
    assert all(kept) and len(set(kept)) == len(kept) and tidy(kept) == (kept, 0)


def test_a_summary_counts_captions(png):
    medium, tallies = ImageText(), {}
    for seed, captions in enumerate((["a", "b"], ["long " * 400])):
        for name, value in medium.read(png(seed), {"captions": captions, "dropped": seed}).counted.items():
            tallies.setdefault(name, Counter())[value] += 1
    summary = medium.summary(tallies)
    assert summary["captions"] == 3 and summary["captions_an_image"] == {"min": 1, "max": 2}
    assert summary["captions_cut"] == 2 and summary["longest_caption"] == 999 and summary["channels"] == 3


def test_images_that_cannot_be_used_go_with_a_reason(folder):
    (folder / "pictures" / "c.png").write_bytes(b"no picture")
    os.symlink("/etc/hostname", folder / "pictures" / "link.png")
    (folder / "captions.csv").write_text(
        "image,caption\na.png,ok\nb.png,   \nc.png,x\nd.png,x\n../../etc/passwd,x\n/etc/passwd,x\nlink.png,x\n,x\n"
    )
    found = outcomes(folder)
    assert found == {
        "a.png": ["ok"], "b.png": "no caption", "c.png": "not an image", "d.png": "cannot be read: No such file or directory",
        "../../etc/passwd": "outside the table's folder", "/etc/passwd": "outside the table's folder",
        "link.png": "outside the table's folder", "row 8": "no image in this row",
    }  # fmt: skip


def test_names_that_lead_out_of_an_archive(folder):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.write(folder / "pictures" / "a.png", "a.png")
        archive.writestr("captions.csv", "image,caption\n./a.png,x\na.png,y\n../a.png,z\n/a.png,z\nb.png,z\n")
    assert outcomes(folder / "x.zip") == {
        "./a.png": ["x", "y"], "../a.png": "outside the archive", "/a.png": "outside the archive",
        "b.png": "not in the archive",
    }  # fmt: skip
    with zipfile.ZipFile(folder / "bad.zip", "w") as archive:
        archive.writestr("../captions.csv", ROWS)
    with pytest.raises(PipelineError, match="leads out of the archive"):
        read(source(), folder / "bad.zip")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "no column 'image'"), (b"PAR1 and nothing of it", "malformed"), (b"image,caption\n" + b"x" * 200_000, "malformed"),
    (b'{"image": "a.png"', "malformed"), (b"{" * 100_000, "malformed"), (b'{"image": 1, "captions": 2}', "did you mean 'captions'"),
    (b"picture,text\na,b\n", "no column 'image'"), (b'{"image": "a", "caption": "b"}\n[]', "no object"),
])  # fmt: skip
def test_a_malformed_table_says_so(folder, content, message):
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        outcomes(folder)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"PAR1", b'{"image": "a", "caption": ', b"image,caption\n", b"\xef\xbb\xbf{"]),
    st.binary(max_size=80),
)
def test_no_bytes_make_the_reader_fail_in_another_way(start, rest):
    try:
        entries = entries_of(Table("t", partial(io.BytesIO, start + rest)), source())
    except PipelineError as error:
        assert str(error).startswith("t: ")
    else:
        assert all(isinstance(entry.name, str) for entry in entries.values())


def test_a_source_without_its_table_says_so(folder, tmp_path):
    with pytest.raises(PipelineError, match="there is no such table, folder or archive"):
        read(source(), folder / "nothing")
    with pytest.raises(PipelineError, match=r"there is no such table: .*captions"):
        read(source(captions="c.csv"), folder)
    (folder / "more.csv").write_text(ROWS)
    with pytest.raises(PipelineError, match=r"holds the tables captions.csv, more.csv: name the one"):
        read(source(), folder)
    assert outcomes(folder, captions="more.csv") == CAPTIONS
    os.mkfifo(folder / "pipe")
    with pytest.raises(PipelineError, match="no regular file"):
        read(source(), folder / "pipe")
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(PipelineError, match="holds no table"):
        read(source(), folder / "x.zip")
    with pytest.raises(PipelineError, match=r"has no c.csv"):
        read(source(captions="c.csv"), folder / "x.zip")
    for field in ("captions", "images"):
        with pytest.raises(ValueError, match="leads out of the source"):
            source(**{field: "../c.csv"})
    with pytest.raises(ValueError, match="'image' is named for two purposes"):
        source(label="image")


def test_an_unknown_split_names_the_row(folder):
    (folder / "captions.csv").write_text("image,caption,split\na.png,x,train\nb.png,x,holdout\n")
    with pytest.raises(PipelineError, match="row 2: split 'holdout' is none of train"):
        read(source(split="split"), folder)


def test_an_image_with_very_many_captions_keeps_a_hundred(folder):
    lines = "".join(f"a.png,caption {i}\n" for i in range(130))
    (folder / "captions.csv").write_text("image,caption\n" + lines)
    (item,) = read(source(), folder).items
    sample = ImageText().read(item.load(), item.extra)
    assert len(sample.columns["captions"]) == 100 and sample.counted["cut"] == 30


def test_flickr_photos_with_five_captions_each():
    reading = read(source(), repository_data("flickr1k.zip"))
    assert reading.total == 800
    for number, item in enumerate(reading.items):
        if number % 100 == 0:
            sample = ImageText().read(item.load(), item.extra)
            assert len(sample.columns["captions"]) == 5 and sample.columns["height"] > 100
    assert number == 799


def test_the_last_member_of_a_truncated_archive(folder):
    """Damage ends the reading with an error, not with fewer images."""
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(folder / "captions.csv", "captions.csv")
        archive.add(folder / "pictures" / "a.png", "a.png")
    whole = (folder / "x.tar").read_bytes()
    (folder / "x.tar").write_bytes(whole[: 512 * 3 + 100])
    with pytest.raises(PipelineError, match="cannot be read as zip or tar"):
        read(source(), folder / "x.tar")
