from __future__ import annotations

import zipfile

import pandas as pd
import pytest

from ssl_pipeline.ingest.look import image_size, look
from ssl_pipeline.ingest.sources import Archive, Folder, Table
from ssl_pipeline.part import PipelineError


def test_a_folder_of_classes(photos):
    (photos / "notes.txt").write_text("x")
    found = look(photos)
    assert found.source == Folder(path=str(photos))
    assert found.files == 41 and found.classes == {"cat": 20, "dog": 20} and found.channels == 3
    assert found.size == (10, 12) and found.image_size == 16 and found.unreadable == pytest.approx(1 / 41)
    assert any(
        n == "1 of 41 sampled files are unusable and would be quarantined: not an image (1)." for n in found.notes
    )
    assert any("enlarged to 16" in note for note in found.notes) and any(
        "41 files are few" in note for note in found.notes
    )


def test_an_archive_and_folders_of_annotations(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n in range(6):
            archive.writestr(f"set/pictures/{n}.png", png(n))
            archive.writestr(f"set/annotations/{n}.xml", "<a/>")
    found = look(tmp_path / "a.zip")
    assert found.source == Archive(path=str(tmp_path / "a.zip")) and found.classes == {"pictures": 6}
    assert any("One class only" in note for note in found.notes)


def test_a_table_and_its_columns(tmp_path, png):
    rows = {"Image": [png(n) for n in range(4)], "label": list("abab"), "patient": [1, 1, 2, 2], "split": ["train"] * 4}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    found = look(tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    assert found.source == Table(path=path, file="Image", label="label", group="patient", split="split")
    assert found.files == 4 and found.classes == {"a": 2, "b": 2} and found.splits == ("train",)


def test_only_a_spread_sample_is_decoded(photos, monkeypatch):
    import ssl_pipeline.ingest.look as module

    decoded = []
    real = module.decode
    monkeypatch.setattr(module, "SAMPLE", 10)
    monkeypatch.setattr(module, "decode", lambda data: decoded.append(data) or real(data))
    assert look(photos).classes == {"cat": 20, "dog": 20} and len(decoded) == 10


def test_unlabelled_images(tmp_path, png):
    (tmp_path / "1.png").write_bytes(png(1))
    found = look(tmp_path)
    assert found.classes is None and any(note.startswith("No labels") for note in found.notes)


@pytest.mark.parametrize("side, size", [(8, 16), (28, 28), (30, 28), (32, 32), (95, 64), (150, 128), (4000, 224)])
def test_the_size_suggested_is_usual_and_not_above_the_images(side, size):
    assert image_size(side) == size


def test_nothing_there_or_nothing_usable(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("x")
    for name, message in [
        ("gone", "there is nothing"),
        ("t.csv", "no column looks like images"),
        ("empty", "holds no files"),
        ("texts", "none of 1 sampled"),
    ]:
        with pytest.raises(PipelineError, match=message):
            look(tmp_path / name)
