from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_pipeline.ingest.images import BadSample
from ssl_pipeline.ingest.sources import Table
from ssl_pipeline.ingest.table import read
from ssl_pipeline.part import PipelineError


def items(path: Path, **columns: str) -> list:
    return list(read(Table(path=str(path), **columns), path).items)


def test_csv_with_paths_labels_groups_and_splits(tmp_path):
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "t.csv").write_bytes(
        '\ufefffile,kind,patient,part\na.png,7,p1,train\n"a.png","x, y",,Valid\na.png,,p2,\n'.encode()
    )
    found = items(tmp_path / "t.csv", file="file", label="kind", group="patient", split="part")
    assert [(i.source, i.label, i.group, i.split) for i in found] == [
        ("a.png", "7", "p1", "train"), ("a.png", "x, y", None, "validation"), ("a.png", None, "p2", None),
    ]  # fmt: skip
    assert found[0].load() == b"A"


def test_parquet_with_bytes_in_either_form(tmp_path):
    labels = pa.array([1.0, None, 2.0])  # what pandas makes of integers beside a null
    pq.write_table(pa.table({"image": pa.array([b"A", None, b"C"]), "label": labels}), tmp_path / "t.parquet")
    found = items(tmp_path / "t.parquet", label="label")
    assert [(i.source, i.label) for i in found] == [("row 1", "1"), ("row 2", None), ("row 3", "2")]
    assert found[2].load() == b"C"
    with pytest.raises(BadSample, match="no file in this row"):
        found[1].load()
    pq.write_table(pa.table({"image": [{"bytes": b"A", "path": "/x.png"}]}), tmp_path / "hf.parquet")
    assert items(tmp_path / "hf.parquet")[0].load() == b"A"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png", "sub/../../secret.png"])
def test_paths_that_leave_the_tables_folder_are_quarantined(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "t.csv").write_text(f"image\n{name}\n")
    with pytest.raises(BadSample, match="outside the table's folder"):
        items(folder / "t.csv")[0].load()


def test_a_missing_file_an_empty_cell_and_a_short_row_are_bad_items(tmp_path):
    (tmp_path / "t.csv").write_text('label,image\na,gone.png\nb,""\nc\n')
    for item, reason in zip(
        items(tmp_path / "t.csv"), ["cannot be read: No such file", "no file", "no file"], strict=True
    ):
        with pytest.raises(BadSample, match=reason):
            item.load()


def test_an_unknown_column_lists_the_columns_and_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("image,labels\nx,y\n")
    with pytest.raises(PipelineError, match=r"no column 'label'; did you mean 'labels'\? \(columns: image, labels\)"):
        read(Table(path="t.csv", label="label"), tmp_path / "t.csv")


def test_an_unknown_split_names_the_row(tmp_path):
    (tmp_path / "t.csv").write_text("image,split\nx,train\nx,holdout\n")
    with pytest.raises(PipelineError, match="row 2: split 'holdout' is none of train"):
        read(Table(path="t.csv", split="split"), tmp_path / "t.csv")


@pytest.mark.parametrize("content, message", [
    (None, "no such table"), (b"PAR1 but then nothing of it", "malformed"),
    (b"image\n" + b"x" * 200_000, "malformed"), (b"", "no column"),
])  # fmt: skip
def test_a_missing_or_malformed_table(tmp_path, content, message):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        items(path)


def test_one_column_for_two_purposes_is_refused_at_load():
    with pytest.raises(ValueError, match="'image' is named for two purposes"):
        Table(path="t.csv", label="image")


def test_a_big_parquet_is_read_in_batches(tmp_path):
    blob = np.random.default_rng(0).bytes(100_000)
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(
        tmp_path / "t.parquet", schema, compression="none", use_dictionary=False, write_batch_size=16
    ) as writer:
        writer.write_table(pa.table({"image": [blob] * 1000}, schema))  # one row group of 100 MB
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    for item in read(Table(path="t.parquet"), tmp_path / "t.parquet").items:
        item.load()
        peak = max(peak, pool.bytes_allocated() - before)
    assert peak < 30_000_000
