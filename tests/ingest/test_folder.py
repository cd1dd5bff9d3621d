from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ssl_pipeline.ingest.folder import read
from ssl_pipeline.ingest.images import BadSample
from ssl_pipeline.ingest.sources import Folder
from ssl_pipeline.part import PipelineError


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def found(folder: Path, labels: bool = True) -> list[tuple]:
    return [(i.source, i.label, i.split) for i in read(Folder(path=str(folder), labels=labels), folder).items]


def reason(folder: Path, source: str) -> str | None:
    item = next(i for i in read(Folder(path=str(folder)), folder).items if i.source == source)
    try:
        item.load()
    except BadSample as error:
        return str(error)
    return None


def test_the_first_folder_is_the_label_and_order_is_sorted(tmp_path):
    put(tmp_path, "dog/x.png", "cat/b/1.png", "cat/a.png", "cat/b.png", "loose.png")
    assert found(tmp_path) == [
        ("cat/a.png", "cat", None), ("cat/b/1.png", "cat", None), ("cat/b.png", "cat", None),
        ("dog/x.png", "dog", None), ("loose.png", None, None),
    ]  # fmt: skip
    assert {label for _, label, _ in found(tmp_path, labels=False)} == {None}


def test_first_folders_named_as_splits(tmp_path):
    put(tmp_path, "train/cat/1.png", "Valid/cat/2.png", "test/3.png", "notes/4.png")
    assert found(tmp_path) == [
        ("Valid/cat/2.png", "cat", "validation"), ("notes/4.png", "notes", None), ("test/3.png", None, "test"),
        ("train/cat/1.png", "cat", "train"),
    ]  # fmt: skip
    assert [split for _, _, split in found(tmp_path, labels=False)] == ["validation", None, "test", "train"]


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, "train/1.png", "bus/1.png")
    assert found(tmp_path) == [("bus/1.png", "bus", None), ("train/1.png", "train", None)]


def test_hidden_and_system_files_are_passed_over(tmp_path):
    put(tmp_path, ".DS_Store", ".git/x.png", "cat/Thumbs.db", "cat/._1.png", "__MACOSX/cat/1.png", "cat/notes.txt")
    assert [source for source, _, _ in found(tmp_path)] == ["cat/notes.txt"]


def test_links_are_followed_only_to_files_inside(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = put(tmp_path / "in", "cat/1.png")
    (folder / "inside.png").symlink_to(folder / "cat" / "1.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "again").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "gone.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert len(found(folder)) == 7
    assert {source: reason(folder, source) for source, _, _ in found(folder)} == {
        "cat/1.png": None, "inside.png": None, "outside.png": "link out of the folder", "up": "link out of the folder",
        "again": "link to a folder", "broken.png": "broken link", "loop.png": "broken link",
    }  # fmt: skip
    (tmp_path / "alias").symlink_to(folder)
    assert found(tmp_path / "alias") == found(folder)


def test_pipes_and_huge_files_are_bad_items(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate((1 << 30) + 1)
    assert reason(tmp_path, "pipe.png") == "not a regular file"
    assert reason(tmp_path, "huge.png") == "oversized: a file above 1 GiB"


def test_a_file_that_vanishes_or_may_not_be_read(tmp_path):
    put(tmp_path, "1.png", "2.png")
    items = read(Folder(path="x"), tmp_path).items
    first = next(items)
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadSample, match="cannot be read: No such file"):
        first.load()
    if os.getuid():  # root may read everything
        (tmp_path / "2.png").chmod(0)
        with pytest.raises(BadSample, match="cannot be read: Permission denied"):
            next(items).load()


def test_folders_deeper_than_pythons_recursion_limit(tmp_path):
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("1.png").write_bytes(b"x")
    finally:
        os.chdir(here)
    assert len(found(tmp_path)) == 1
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # pytest's own clean-up recurses


def test_a_missing_folder_or_a_file_in_its_place(tmp_path):
    put(tmp_path, "a.zip")
    with pytest.raises(PipelineError, match="no such folder"):
        read(Folder(path="x"), tmp_path / "x")
    with pytest.raises(PipelineError, match="use kind archive or table"):
        read(Folder(path="a.zip"), tmp_path / "a.zip")
