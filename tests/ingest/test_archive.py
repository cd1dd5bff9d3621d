from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssl_pipeline.ingest.archive import read
from ssl_pipeline.ingest.images import BadSample
from ssl_pipeline.ingest.sources import Archive
from ssl_pipeline.part import PipelineError


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


MAKERS = {
    "zip": make_zip,
    "tar": make_tar,
    "tar.gz": lambda path, files: make_tar(path, files, "w:gz"),
    "tar.xz": lambda path, files: make_tar(path, files, "w:xz"),
}


def loaded(path: Path, labels: bool = True) -> list[tuple]:
    items = read(Archive(path=str(path), labels=labels), path).items
    return [(item.source, item.label, item.split, item.load()) for item in items]


@pytest.mark.parametrize("kind", MAKERS)
def test_members_are_read_with_the_labels_of_their_folders(tmp_path, kind):
    files = {
        "pets/dog/b.png": b"B",
        "pets/cat/deep/a.png": b"A" * 5000,
        "pets/.DS_Store": b"x",
        "__MACOSX/pets/._b.png": b"x",
    }
    path = MAKERS[kind](tmp_path / f"a.{kind}", files)
    found = loaded(path)
    expected = [("pets/dog/b.png", "dog", None, b"B"), ("pets/cat/deep/a.png", "cat", None, b"A" * 5000)]
    assert found == (expected if kind in ("tar.gz", "tar.xz") else sorted(expected))
    assert {label for _, label, _, _ in loaded(path, labels=False)} == {None}
    assert read(Archive(path=str(path)), path).total == 2


@pytest.mark.parametrize("kind", MAKERS)
def test_the_suffix_of_an_archive_does_not_matter(tmp_path, kind):
    assert loaded(MAKERS[kind](tmp_path / "data.bin", {"./a/x": b"1", "./b/y": b"2"})) == [
        ("a/x", "a", None, b"1"),
        ("b/y", "b", None, b"2"),
    ]


def test_folders_of_splits_in_an_archive(tmp_path):
    path = make_zip(tmp_path / "a.zip", {f"set/{s}/{c}/1": b"" for s in ("train", "val", "test") for c in "ab"})
    assert read(Archive(path=str(path)), path).splits == {"train", "validation", "test"}
    assert [(label, split) for _, label, split, _ in loaded(path)][:3] == [("a", "test"), ("b", "test"), ("a", "train")]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "name",
    ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "C:evil.png", "..\\evil.png", "\\evil.png"],
)
def test_an_archive_with_a_name_that_leads_out_is_refused_whole(tmp_path, kind, name):
    path = MAKERS[kind](tmp_path / "a", {"a/fine.png": b"x", name: b"x"})
    with pytest.raises(PipelineError, match="leads out of the archive") as error:
        read(Archive(path=str(path)), path)
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path, kind, mode):
    path = make_tar(tmp_path / "a.tar", {"a/fine.png": b"x"}, mode)
    with tarfile.open(path, mode) as archive:
        info = tarfile.TarInfo("a/odd.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(PipelineError, match=r"'a/odd.png' is a (link|device)"):
        read(Archive(path=str(path)), path)


def test_a_zip_with_a_link_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/odd.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(PipelineError, match="'a/odd.png' is a link"):
        read(Archive(path=str(path)), path)


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(make_zip(tmp_path / "a.zip", {"a.png": b"x"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    data[6] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(PipelineError, match="'a.png' is encrypted"):
        read(Archive(path="a.zip"), tmp_path / "a.zip")


def test_declared_and_actual_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_pipeline.ingest.item.MAX_BYTES", 1000)
    path = make_zip(tmp_path / "a.zip", {"bomb.png": b"\0" * 5000, "fine.png": b"\0" * 1000})
    items = read(Archive(path=str(path)), path).items
    with pytest.raises(BadSample, match="oversized"):
        next(items).load()
    assert len(next(items).load()) == 1000
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    assert int.from_bytes(data[place : place + 4], "little") == 5000
    data[place : place + 4] = (10).to_bytes(4, "little")  # the header says 10 bytes
    path.write_bytes(data)
    with pytest.raises(BadSample, match="damaged in the archive"):
        next(read(Archive(path=str(path)), path).items).load()


def test_a_damaged_member_is_one_bad_item(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a.png": b"abc" * 100, "b.png": b"def" * 100})
    data = bytearray(path.read_bytes())
    data[30 + len("a.png") + 3] ^= 0xFF
    path.write_bytes(data)
    items = read(Archive(path=str(path)), path).items
    with pytest.raises(BadSample, match="damaged in the archive"):
        next(items).load()
    assert next(items).load() == b"def" * 100


@pytest.mark.parametrize("kind", MAKERS)
def test_a_truncated_archive_is_an_error(tmp_path, kind):
    import numpy as np

    files = {f"{n}.png": np.random.default_rng(n).bytes(5000) for n in range(20)}
    path = MAKERS[kind](tmp_path / "a", files)
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(PipelineError, match="undamaged copy"):
        read(Archive(path=str(path)), path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_garbled_header_does_not_silently_end_a_tar(tmp_path, mode):
    import gzip

    path = make_tar(tmp_path / "a.tar", {f"{n}.png": b"x" * 512 for n in range(4)})
    data = bytearray(path.read_bytes())
    data[2048:2148] = b"\xff" * 100
    path.write_bytes(data if mode == "w" else gzip.compress(data))
    with pytest.raises(PipelineError, match="damaged at byte 2048"):
        read(Archive(path=str(path)), path)


def test_not_an_archive(tmp_path):
    (tmp_path / "note.zip").write_bytes(b"just text, and enough of it to look like something" * 30)
    for path, message in [
        (tmp_path / "note.zip", "cannot be read as zip or tar"),
        (tmp_path / "no.zip", "no such file or folder"),
        (tmp_path, "image_folder"),
    ]:
        with pytest.raises(PipelineError, match=message):
            read(Archive(path=str(path)), path)
