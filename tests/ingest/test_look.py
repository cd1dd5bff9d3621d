from __future__ import annotations

import gzip
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import soundfile

from ssl_pipeline.ingest.images import Images
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.look import image_size, look
from ssl_pipeline.ingest.source_image_text import CaptionTable
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.sources import Archive, Folder, Table
from ssl_pipeline.part import PipelineError


def test_a_folder_of_classes(photos):
    (photos / "notes.txt").write_text("x")
    found = look(photos)
    assert found.source == Folder(path=str(photos))
    assert found.samples == 41 and found.classes == {"cat": 20, "dog": 20}
    assert found.about == "RGB, median 12 x 10 pixels" and found.encoder["image_size"] == 16
    assert found.unusable == pytest.approx(1 / 41)
    assert any(
        n == "1 of 41 sampled files are unusable and would be quarantined: not an image (1)." for n in found.notes
    )
    assert any("enlarged to 16" in note for note in found.notes) and any(
        "41 samples are few" in note for note in found.notes
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
    assert found.samples == 4 and found.classes == {"a": 2, "b": 2} and found.splits == ("train",)


def test_only_a_spread_sample_is_decoded(photos, monkeypatch):
    import ssl_pipeline.ingest.look as module

    decoded = []
    real = Images.read
    monkeypatch.setattr(module, "SAMPLE", 10)
    monkeypatch.setattr(Images, "read", lambda self, data, extra: decoded.append(data) or real(self, data, extra))
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
    (tmp_path / "others").mkdir()
    (tmp_path / "others/a.xyz").write_text("x")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(" ")
    for name, message in [
        ("gone", "there is nothing"),
        ("t.csv", r"its columns \(a, b\) do not tell what it holds"),
        ("empty", "holds no files"),
        ("others", "none of 1 sampled files is usable as image"),
        ("texts", "none of 1 sampled files is usable as text"),
    ]:
        with pytest.raises(PipelineError, match=message):
            look(tmp_path / name)


def sound(seconds: float, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(int(seconds * rate)) / 9), rate, format="WAV")
    return file.getvalue()


def test_sounds_texts_and_captioned_images_in_folders(tmp_path, png):
    for name in ("sounds", "texts", "pairs"):
        (tmp_path / name).mkdir()
    for n in range(3):
        (tmp_path / f"sounds/{n}.wav").write_bytes(sound(0.7 + n / 9))
        (tmp_path / f"texts/{n}.txt").write_text(f"{n} green bottles hanging on the wall " * 20)
        (tmp_path / f"pairs/{n}.png").write_bytes(png(n))
    found = look(tmp_path / "sounds")
    assert found.source == Folder(kind="audio_folder", path=str(tmp_path / "sounds"))
    assert found.about == "sound, median 0.81 s at 8,000 Hz"
    assert found.encoder == {"kind": "audio", "backbone": "resnet18", "sample_rate": 8000, "seconds": 0.96}
    found = look(tmp_path / "texts")
    assert found.source == Text(path=str(tmp_path / "texts")) and found.encoder["length"] == 256
    assert look(tmp_path / "pairs").source == Folder(path=str(tmp_path / "pairs"))
    rows = "".join(f"{n}.png,a thing\n{n}.png,number {n}\n" for n in range(3))
    (tmp_path / "pairs/list.csv").write_text("image,caption\n" + rows)
    found = look(tmp_path / "pairs")
    assert found.source == CaptionTable(path=str(tmp_path / "pairs"), captions="list.csv") and found.samples == 3
    assert "2.0 captions each" in found.about and found.encoder["image"]["image_size"] == 16
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for file in sorted((tmp_path / "pairs").iterdir()):
            archive.write(file, f"pairs/{file.name}")
    assert look(tmp_path / "pairs.zip").source == CaptionTable(path=str(tmp_path / "pairs.zip"))
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        for file in (tmp_path / "sounds").iterdir():
            archive.write(file, f"sounds/{file.name}")
    assert look(tmp_path / "sounds.zip").source == Archive(path=str(tmp_path / "sounds.zip"), modality="audio")


def test_tables_tell_by_their_columns_what_they_hold(tmp_path):
    random = np.random.default_rng(0)
    tables = {
        "log.csv": {
            "userId": np.repeat(np.arange(8), 6),
            "movieId": np.tile(np.arange(6), 8),
            "timestamp": np.arange(48),
        },
        "mails.csv": {"subject": list("aabbcc"), "body": [f"mail {n}" for n in range(6)], "label": list("xyxyxy")},
        "vitals.csv": {"time": np.arange(600), "pulse": random.normal(size=600), "pressure": random.normal(size=600)},
        "runs.csv": {"recording": np.repeat(["a", "b", "c"], 40), "x": random.normal(size=120), "label": ["q"] * 120},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
    (tmp_path / "lines.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    paths = {name: str(tmp_path / name) for name in (*tables, "lines.jsonl")}
    found = look(tmp_path / "log.csv")
    assert found.source == InteractionsSource(path=paths["log.csv"], user="userId", item="movieId")
    assert found.samples == 8 and found.about.startswith("interactions of 8 users with 6 items")
    found = look(tmp_path / "mails.csv")
    assert found.source == Text(path=paths["mails.csv"], text="body", label="label", group="subject")
    assert found.classes == {"x": 3, "y": 3}
    found = look(tmp_path / "vitals.csv")
    assert found.source == SeriesTable(path=paths["vitals.csv"], time="time", window=16)
    assert found.samples == 36 and found.encoder == {"kind": "series", "length": 16, "patch": 2}
    found = look(tmp_path / "runs.csv")
    assert found.source == SeriesTable(path=paths["runs.csv"], series="recording", label="label")
    assert found.samples == 3 and found.encoder["length"] == 40
    assert look(tmp_path / "lines.jsonl").source == Text(path=paths["lines.jsonl"])


def test_vocs_layout_is_a_source_of_boxes(tmp_path, png):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    box = "<object><name>cell</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    for n in range(4):
        (tmp_path / f"JPEGImages/{n}.png").write_bytes(png(n))
        (tmp_path / f"Annotations/{n}.xml").write_text(f"<annotation><filename>{n}.png</filename>{box}</annotation>")
    (tmp_path / "ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("3\n")
    found = look(tmp_path)
    lists = {"train": "ImageSets/Main/train.txt", "validation": "ImageSets/Main/val.txt"}
    assert found.source == Voc(path=str(tmp_path), **lists) and found.samples == 4 and found.unusable == 0


def test_several_machines_in_one_table_are_recordings_and_y_is_measured(tmp_path):
    rows = {"machine": np.repeat(["a", "b"], 300), "time": np.tile(np.arange(300), 2)}
    rows |= {name: np.random.default_rng(0).normal(size=600) for name in "xy"}
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    found = look(tmp_path / "m.csv")
    assert found.source == SeriesTable(path=str(tmp_path / "m.csv"), series="machine", time="time", window=128)
    assert found.samples == 4 and found.about == "windows of 128 steps of 2 channels" and found.classes is None


PAIR_ROWS = {"english": ["A red cat sleeps", "Two dogs"] * 3, "german": ["Eine rote Katze schläft", "Zwei Hunde"] * 3}


@pytest.mark.parametrize("columns", ["en de", "English German", "source target", "src tgt", "en-GB fr_FR"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_pairs_in_columns_that_are_called_as_languages_are(tmp_path, columns, kind):
    left, right = columns.split()
    frame = pd.DataFrame(
        {"no": range(6), left: PAIR_ROWS["english"], right: PAIR_ROWS["german"], "split": ["train"] * 6}
    )
    path = tmp_path / f"pairs.{kind}"
    match kind:
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case _:
            frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    found = look(path)
    assert found.source == Text(path=str(path), text=left, target=right, split="split")
    assert found.pairs and found.samples == 6 and found.about.startswith("pairs of texts")
    assert not any("labels" in note for note in found.notes)


def test_numbers_and_what_stands_beside_a_text_are_no_pairs(tmp_path):
    pd.DataFrame({"source": [1, 2], "target": [2, 3]}).to_csv(tmp_path / "edges.csv", index=False)
    with pytest.raises(PipelineError, match="do not tell what it holds"):
        look(tmp_path / "edges.csv")
    pd.DataFrame({"text": ["so it is", "so it was"], "source": ["bbc", "dpa"], "target": ["a", "b"]}).to_csv(
        tmp_path / "news.csv", index=False
    )
    found = look(tmp_path / "news.csv")
    assert found.source == Text(path=str(tmp_path / "news.csv"), label="target") and not found.pairs


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["train.de", "train.en", "val.de", "val.en"], ["train.en", "train.de"]),
        (["de.txt", "en.txt"], ["en.txt", "de.txt"]),
        (["a.fr-de.de.gz", "a.fr-de.fr.gz", "README"], ["a.fr-de.de.gz", "a.fr-de.fr.gz"]),
        (["test.src", "test.tgt", "train.src", "train.tgt"], ["train.src", "train.tgt"]),
    ],
)
def test_pairs_in_files_line_by_line(tmp_path, names, chosen):
    (folder := tmp_path / "corpus").mkdir()
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        for name in names:
            data = "\n".join(f"{name} says {n}" for n in range(4)).encode()
            (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
            archive.write(folder / name, f"corpus/{name}")
    left, right = chosen
    found = look(folder)
    assert found.source == Text(path=str(folder / left), parallel=right) and found.samples == 4
    assert f"Pairs are the lines of {left} and {right}; what else lies there is passed over." in found.notes
    path = str(tmp_path / "corpus.zip")
    assert look(tmp_path / "corpus.zip").source == Text(path=path, member=f"corpus/{left}", parallel=f"corpus/{right}")


def test_a_folder_around_the_data_is_passed_over(photos, tmp_path):
    (around := tmp_path / "around" / "download").mkdir(parents=True)
    (around.parent / ".DS_Store").write_text("x")
    photos.rename(around / "photos")
    found = look(around.parent)
    assert found.source == Folder(path=str(around / "photos")) and found.classes == {"cat": 20, "dog": 20}
    (tmp_path / "table").mkdir()
    pd.DataFrame(PAIR_ROWS).to_csv(tmp_path / "table/list.csv", index=False)
    assert look(tmp_path / "table").pairs


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["labels.json"], {"annotations": "labels.json"}),
        (
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "annotations/captions_val2017.json"],
            {"train": "annotations/instances_train2017.json", "validation": "annotations/instances_val2017.json"},
        ),
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"],
            {s: f"{n}/_annotations.coco.json" for s, n in zip(SPLITS, ("train", "valid", "test"), strict=True)},
        ),
        (["one.json", "other.json"], None),
    ],
)  # fmt: skip
def test_cocos_json_is_a_source_of_boxes(tmp_path, png, files, named):
    for number, file in enumerate(files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{number}.png").write_bytes(png(number))
        boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}]
        listed = {"images": [{"id": 1, "file_name": f"{number}.png"}], "categories": [{"id": 1, "name": "cell"}]}
        (tmp_path / file).write_text(json.dumps(listed | {"annotations": boxes}))
    found = look(tmp_path)
    path = str(tmp_path)
    assert found.source == (Coco(path=path, **named) if named else Folder(path=path)) and found.unusable in (0, 0.5)
    (tmp_path / files[0]).write_text("[]")
    assert not isinstance(look(tmp_path).source, Coco)
