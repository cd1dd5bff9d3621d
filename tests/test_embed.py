"""`embed` on files of every modality: the same numbers as from a dataset that was ingested and packed from the same files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from ssl_pipeline import embed as embedding
from ssl_pipeline import ingest, tracking
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.sniff import source_of
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext import pack
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset
from ssl_pipeline.store import Store

COUNT = 16
SMALL = {"backbone": "resnet18", "options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}}
ENCODERS = {
    "image": {"kind": "image", "image_size": 16} | SMALL,
    "audio": {"kind": "audio", "sample_rate": 8000, "seconds": 0.4, "mels": 16} | SMALL,
    "video": {"kind": "video", "image_size": 16, "frames": 3, "min_motion": 0} | SMALL,
    "text": {"kind": "text", "layers": 1, "width": 16, "heads": 2, "length": 12, "vocabulary": 300},
    "series": {"kind": "series", "length": 32, "width": 16, "depth": 1, "heads": 2},
}


def images(folder: Path, number: int) -> None:
    noise = np.random.default_rng(number).integers(0, 256, (20 + number, 33, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"{number:02d}.png")


def sounds(folder: Path, number: int) -> None:
    noise = 0.1 * np.random.default_rng(number).standard_normal((3000 + 1000 * number, 2))
    soundfile.write(folder / f"{number:02d}.flac", noise, 22_050)


def videos(folder: Path, number: int) -> None:
    with av.open(folder / f"{number:02d}.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        random = np.random.default_rng(number)
        for _ in range(4 + number % 4):
            picture = np.kron(random.integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


def texts(folder: Path, number: int) -> None:
    words = np.random.default_rng(number).choice(["Seal", "ice", "über", "  swims ", "\n", "42"], 3 + number)
    (folder / f"{number:02d}.txt").write_text(" ".join(words) + f" {number}")


WRITE: dict[str, Callable[[Path, int], None]] = {"image": images, "audio": sounds, "video": videos, "text": texts}


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        if kind == "series":
            walks = np.random.default_rng(0).standard_normal((COUNT, 32, 2)).cumsum(1).reshape(-1, 2)
            machine, time = np.divmod(np.arange(len(walks)), 32)
            table = pd.DataFrame({"machine": machine, "time": time, "heat": walks[:, 0], "load": walks[:, 1]})
            table.to_csv(tmp_path / "series.csv", index=False)
            return tmp_path / "series.csv"
        folder = tmp_path / kind
        folder.mkdir()
        for number in range(COUNT):
            WRITE[kind](folder, number)
        return folder

    return make


@pytest.fixture
def registered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str, Path], tuple[pack.Pack, DeployedEncoder]]:
    """Packs the data of a kind and has a fresh encoder of it in the place of a registered one."""

    def register(kind: str, path: Path) -> tuple[pack.Pack, DeployedEncoder]:
        source = source_of(path).model_dump(exclude_none=True)
        dataset = Dataset.model_validate(
            {"name": "some", "source": source, "split": {"validation": 0.3, "test": 0.3}, "max_quarantined": 0.5}
        )
        store = Store(tmp_path / "store")
        stage = ingest.build(dataset, store, lambda tree: kind, store.root, lambda line: None)
        settings = encoders.settings_of(ENCODERS[kind])
        packed = pack.open_pack(pack.build(store, stage, settings))
        encoder = encoders.build(settings, packed.given).eval()
        (tmp_path / "model" / "extra_files").mkdir(parents=True)
        encoders.save(encoder, settings, packed.facts, tmp_path / "model" / "extra_files")
        deployed = DeployedEncoder(encoder)
        takes = {"dim": deployed.dim, "dtype": deployed.example(1).numpy().dtype.name}
        found = (tracking.Version("some", 1, {}, ""), tmp_path / "model")
        monkeypatch.setattr(tracking, "downloaded", lambda tracker, uri: nullcontext(found))
        monkeypatch.setattr(embedding.models, "read", lambda folder: (deployed, takes))
        return packed, deployed

    return register


@pytest.mark.parametrize("kind", ENCODERS)
def test_files_are_embedded_as_the_dataset_was(kind, data, registered, tmp_path) -> None:
    path, said = data(kind), []
    packed, deployed = registered(kind, path)
    if path.is_dir():
        (path / f"bad{next(path.iterdir()).suffix}").write_bytes(b"\0")
    project = Project(tmp_path)
    assert embedding.embed(project, "models:/some/1", path, tmp_path / "out.parquet", said.append) == COUNT
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("source")["embedding"]
    expected = {}
    for split in SPLITS:
        (stored,) = pack.take(packed.samples(split), slice(None)).values()
        given = torch.from_numpy(stored.astype(deployed.example(1).numpy().dtype))
        with torch.inference_mode():
            expected |= dict(zip(packed.index(split)["source"], deployed(given).numpy(), strict=True))
    assert len(expected) == COUNT and set(table.index) == set(expected)
    for source, vector in expected.items():
        np.testing.assert_allclose(table[source], vector, rtol=1e-4, atol=1e-5)
    assert [line.partition(":")[0] for line in said[:-1]] == (["skipped bad" + ENDS[kind]] if path.is_dir() else [])


ENDS = {"image": ".png", "audio": ".flac", "video": ".mp4", "text": ".txt"}


def test_one_long_recording_is_cut_into_windows(data, registered, tmp_path) -> None:
    registered("series", data("series"))
    steps = np.arange(100.0)
    long = pd.DataFrame({"time": steps, "load": np.sin(steps), "heat": np.cos(steps), "other": steps})
    long.to_parquet(tmp_path / "long.parquet")
    said: list[str] = []
    rows = embedding.embed(
        Project(tmp_path), "models:/some/1", tmp_path / "long.parquet", tmp_path / "out.parquet", said.append
    )
    assert rows == 3
    assert pd.read_parquet(tmp_path / "out.parquet")["source"].tolist() == [f"long at {n}.0" for n in (0, 32, 64)]
    with pytest.raises(PipelineError, match="has no column 'heat'"):
        long.drop(columns="heat").to_parquet(tmp_path / "long.parquet")
        embedding.embed(Project(tmp_path), "models:/some/1", tmp_path / "long.parquet", tmp_path / "out.parquet", print)


def test_data_of_another_kind_are_refused(data, registered, tmp_path) -> None:
    registered("text", data("text"))
    with pytest.raises(PipelineError, match="looks like image, and the model takes text"):
        embedding.embed(Project(tmp_path), "models:/some/1", data("image"), tmp_path / "out.parquet", print)
    assert not (tmp_path / "out.parquet").exists()
