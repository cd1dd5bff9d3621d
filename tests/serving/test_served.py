"""Registered models as MLflow serves them, in processes without this package: a thousand answers of each kind are the
pipeline's own features of the same samples; and what nobody should send gets told so."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import soundfile
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from PIL import Image

from ssl_pipeline import tracking
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.features import extract
from ssl_pipeline.ingest.shards import rows
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext import pack
from ssl_pipeline.project import Project
from ssl_pipeline.tracking.served import served
from tests.serving.conftest import RECIPES, answers, free_port, serving

COUNT = 1000
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
"""Other batches and other kernels: roundings of fp32."""
CONTENT = {"image": "image", "text": "text", "audio": "audio"}


def expected(stages) -> np.ndarray:
    return extract.read(stages["features"].path, "train")[:COUNT]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_registered_model_answers_arrays_as_the_pipeline_does(kind, project, registered, tmp_path) -> None:
    stages = registered(kind)
    settings = encoders.settings_in(stages["pretrained_encoder"].path)
    packed = pack.open_pack(pack.build(project.store, stages["dataset"], settings))
    (stored,) = pack.take(packed.samples("train"), slice(0, COUNT)).values()
    with serving(f"models:/{RECIPES[kind]}@champion", project, tmp_path) as url:
        found = answers(url, list(stored), lambda some: {"inputs": np.stack(some).tolist()})
    assert len(found) == COUNT
    np.testing.assert_allclose(found, expected(stages), **FLOAT32)


@pytest.fixture(scope="session")
def model(project: Project, registered, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a served model of a kind."""
    top = tmp_path_factory.mktemp("served")

    def build(kind: str) -> Path:
        registered(kind)
        if not (top / kind).exists():
            served(project, f"models:/{RECIPES[kind]}@champion", top / kind)
        return top / kind

    return build


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECIPES)
def test_files_and_strings_are_embedded_as_the_pipeline_does(kind, project, registered, model, tmp_path) -> None:
    stages = registered(kind)
    given = [row[kind] for row, _ in zip(rows(stages["dataset"].path / "tree", "train"), range(COUNT), strict=False)]
    values = [one if isinstance(one, str) else base64.b64encode(one["bytes"]).decode() for one in given]
    assert len(values) == COUNT
    with serving(str(model(kind)), project, tmp_path) as url:
        found = answers(url, values, lambda some: {"dataframe_split": {"columns": [kind], "data": [[v] for v in some]}})
    np.testing.assert_allclose(found, expected(stages), **FLOAT32)
    assert len({tuple(one) for one in found.round(4).tolist()}) > COUNT / 2, "they tell samples apart"


ODD_IMAGES = {
    "large colour JPEG": ("JPEG", "RGB", (640, 427)), "alpha": ("PNG", "RGBA", (50, 31)), "palette": ("GIF", "P", (33, 64)),
    "16 bits": ("PNG", "I;16", (40, 40)), "one bit": ("PNG", "1", (90, 28)), "CMYK": ("TIFF", "CMYK", (28, 30)),
}  # fmt: skip


def encoded(format: str, mode: str, size: tuple[int, int], turned: bool = False) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(noise).convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "RGBA":
        image = Image.fromarray(noise)
    else:
        image = image.convert(mode)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image.save(file, format, exif=exif)
    return file.getvalue()


@pytest.mark.slow
def test_odd_images_are_decoded_as_ingestion_does(project, registered, model, tmp_path) -> None:
    stages, folder = registered("image"), tmp_path / "odd"
    folder.mkdir()
    files = [encoded(*form, turned=name == "large colour JPEG") for name, form in ODD_IMAGES.items()]
    for number, data in enumerate(files):
        (folder / f"{number}.png").write_bytes(data)
    from ssl_pipeline.embed import embed

    uri = f"models:/{RECIPES['image']}@champion"
    assert embed(project, uri, folder, tmp_path / "odd.parquet", lambda line: None) == len(ODD_IMAGES)
    from_files = np.stack(pd.read_parquet(tmp_path / "odd.parquet")["embedding"])
    loaded = mlflow.pyfunc.load_model(str(model("image")))
    answer = loaded.predict(pd.DataFrame({"image": [base64.b64encode(data).decode() for data in files]}))
    np.testing.assert_allclose(np.stack(answer["embedding"]), from_files, **FLOAT32)
    assert stages["features"].summary["dim"] == from_files.shape[1]
    # plain pixels, and the same pixels as a file
    image = Image.open(io.BytesIO(encoded("PNG", "RGB", (61, 47))))
    pixels = np.asarray(image)
    for array in (pixels, pixels[..., 0], pixels[..., :1]):
        file = io.BytesIO()
        Image.fromarray(array.squeeze()).save(file, "PNG")
        both = [base64.b64encode(data).decode() for data in (array.tobytes(), file.getvalue())]
        one, other = loaded.predict(pd.DataFrame({"image": both, "shape": [list(array.shape), None]}))["embedding"]
        assert one == other


def png_that_says(width: int, height: int) -> bytes:
    """A few bytes whose header promises an image of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = base64_of(encoded("PNG", "L", (28, 28)))
HOSTILE = {
    "image": [
        ({"image": base64_of(png_that_says(60_000, 60_000))}, "row 0: oversized"),
        ({"image": base64_of(png_that_says(12_000, 12_000))}, "row 0: oversized: 12000x12000 pixels"),
        ({"image": base64_of(png_that_says(300, 300))}, "row 0: damaged PNG"),
        ({"image": PNG[:-5] + "?!"}, "row 0: image is not base64"),
        ({"image": "é" * 4}, "row 0: image is not base64"),
        ({"image": ""}, "row 0: empty file"),
        ({"image": base64_of(b"<svg/>")}, "row 0: not an image"),
        ({"image": None}, "row 0: image is missing and not a string"),
        ({"image": 3}, "row 0: image is int and not a string"),
        ({"picture": PNG}, "Model is missing inputs ['image']"),
        ({"image": PNG, "shape": [1 << 40, 1 << 40]}, "row 0: image has"),
        ({"image": PNG, "shape": [0, 4]}, "row 0: shape [0, 4] is none of an image"),
        ({"image": PNG, "shape": [2, 2, 2, 2]}, "row 0: shape [2, 2, 2, 2] is none of an image"),
    ],
    "audio": [
        ({"audio": base64_of(b"RIFF1234WAVE")}, "row 0: damaged WAV"),
        ({"audio": base64_of(wav(np.sin(np.arange(999.0)))[:-100])}, "row 0: damaged WAV: its end is missing"),
        ({"audio": base64_of(wav(np.zeros(999)))}, "row 0: silent"),
        ({"audio": PNG}, "row 0: not audio"),
    ],
    "text": [
        ({"text": " \n"}, "row 0: empty"),
        ({"text": "a\0b"}, "row 0: binary: a NUL byte"),
        ({"text": "\ud800"}, "surrogates not allowed"),
        ({"text": "a" + "\u0301" * 5000}, "row 0: not text: 100 combining marks"),
        ({"text": ["a", "b"]}, ""),
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_nobody_should_send_gets_told_so(kind, model) -> None:
    fine = {"image": PNG, "audio": base64_of(wav(np.sin(np.arange(16_000.0)))), "text": "Heat (1995)"}[kind]
    server = TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(model(kind)))))

    def post(body: bytes) -> Any:
        return server.post("/invocations", content=body, headers={"content-type": "application/json"})

    def ask(*sent: dict[str, Any]) -> Any:
        return post(json.dumps({"dataframe_records": sent}).encode())

    for row, words in HOSTILE[kind]:
        answer = ask(row)
        assert answer.status_code == 400, (row, answer.text[:500])
        assert words in answer.json()["message"], answer.text[:1000]
    assert "row 1: " in ask({kind: fine}, HOSTILE[kind][0][0]).json()["message"]
    for body in (b"", b"{", b"[]", b'{"dataframe_records": 1}'):
        assert post(body).status_code == 400
    assert ask({kind: fine}).status_code == 200, "it goes on serving"


@pytest.mark.slow
def test_no_pickle_and_nothing_of_this_package(model, project) -> None:
    for kind in RECIPES:
        folder = model(kind)
        assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth")]
        for script in folder.rglob("*.py"):
            assert not re.search(r"^\s*(from|import) ssl_pipeline", script.read_text(), re.M)


def test_a_model_that_takes_no_files_says_what_does_work(project, monkeypatch, tmp_path) -> None:
    from contextlib import nullcontext

    found = (tracking.Version("movies", 1, {}, ""), tmp_path)
    monkeypatch.setattr(tracking, "downloaded", lambda tracker, uri: nullcontext(found))
    with pytest.raises(PipelineError, match="register it again"):
        served(project, "models:/movies/1", tmp_path / "model")
    (tmp_path / "extra_files").mkdir()
    (tmp_path / "extra_files" / "encoder.json").write_text('{"encoder": {"kind": "interactions"}}')
    with pytest.raises(PipelineError, match="mlflow models serve -m models:/movies/1"):
        served(project, "models:/movies/1", tmp_path / "model")


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped_and_leaves_nobody_behind(project, registered) -> None:
    registered("text")
    port = free_port()
    command = [sys.executable, "-m", "ssl_pipeline.cli", "serve", "models:/titles_crops@champion", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    started = subprocess.Popen(
        command, env=environment, cwd=project.root, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        assert started.stdout
        said = []
        for line in started.stdout:
            said.append(line)
            if line.startswith("Ctrl-C stops it"):
                break
        assert f"titles_crops version 1: http://127.0.0.1:{port}/invocations\n" in said
        answer = requests.post(
            f"http://127.0.0.1:{port}/invocations", json={"inputs": {"text": ["Heat (1995)"]}}, timeout=60
        )
        assert len(answer.json()["predictions"][0]["embedding"]) == 128
        family = psutil.Process(started.pid).children(recursive=True)
        again = subprocess.run(command, env=environment, cwd=project.root, capture_output=True, text=True, check=False)
        assert again.returncode == 1 and f"port {port} on 127.0.0.1 cannot be used" in again.stderr
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
    assert family and not [process for process in family if process.is_running()]
