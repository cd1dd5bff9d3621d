from __future__ import annotations

import os
import pickletools
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.part import PipelineError
from ssl_pipeline.tracking import champion, load, model, promote, register, versions

TAGS = {"dataset": "digits", "data_digest": "0" * 32 + ".dir", "metric": "classification/linear/accuracy/10"}


def images(batch: int, side: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8)


def aliases(tracker) -> dict[str, int]:
    with tracker.connected() as client:
        return {alias: int(v) for alias, v in client.get_registered_model("digits_simclr").aliases.items()}


@pytest.fixture
def run_id(tracker) -> str:
    run_id = tracker.run("digits", "simclr", "k1", params={"epochs": 3})
    tracker.log_curve(run_id, [{"step": s, "loss": 3.0 - s} for s in range(3)])
    return run_id


@pytest.fixture
def registered(tracker, run_id, encoder, files) -> int:
    return register(tracker, run_id, "digits_simclr", "k1", encoder, files, TAGS, "What it is.\n" * 1000)


def test_a_version_says_what_it_is(tracker, run_id, registered) -> None:
    (version,) = versions(tracker, "digits_simclr")
    assert (version.version, version.run_id) == (registered, run_id)
    assert version.tags == TAGS | {"content_key": "k1"}
    assert aliases(tracker) == {} and champion(tracker, "digits_simclr") is None
    with tracker.connected() as client:
        assert len(client.get_model_version("digits_simclr", "1").description) == 5000
        (output,) = client.get_run(run_id).outputs.model_outputs
        logged = client.get_logged_model(output.model_id)
    assert logged.params == {"epochs": "3"} and {m.key: m.value for m in logged.metrics} == {"loss": 1.0}
    assert str(logged.status) == "READY" and '"version": ' in logged.tags["mlflow.modelVersions"]
    folder = Path(logged.artifact_location.removeprefix("file://"))
    beside = {p.name for p in (folder / "extra_files").iterdir()}
    assert beside == {"encoder.safetensors", "encoder.json", "model_card.md"}
    with tracker.connected() as client:
        history = client.get_metric_history(run_id, "loss")
    assert [m.step for m in history] == [0, 1, 2]  # the model's copy is no further point of the run's curve


def test_one_key_is_one_version(tracker, run_id, registered, encoder, other_encoder, files) -> None:
    assert register(tracker, run_id, "digits_simclr", "k1", encoder, files, TAGS, "") == registered
    assert register(tracker, run_id, "digits_simclr", "k2", other_encoder, files, TAGS, "") == 2
    assert register(tracker, run_id, "digits_simclr", "k1", encoder, files, TAGS, "") == registered
    assert [v.tags["content_key"] for v in versions(tracker, "digits_simclr")] == ["k1", "k2"]


def test_two_at_once_make_one_version(new_tracker, run_id, encoder, files) -> None:
    made: list[int] = []

    def work() -> None:
        made.append(register(new_tracker(), run_id, "digits_simclr", "k1", encoder, files, TAGS, ""))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1, 1] and len(versions(new_tracker(), "digits_simclr")) == 1


def test_load_gives_the_encoders_embeddings(tracker, registered, encoder) -> None:
    promote(tracker, "digits_simclr", 1, "the first")
    module, info = load(tracker, "models:/digits_simclr@champion")
    assert info == {"shape": [3, 8, 8], "dtype": "uint8", "dim": 4, "name": "digits_simclr", "version": 1}
    for batch in (1, 2, 7, 64):
        given = images(batch)
        torch.testing.assert_close(module(given), encoder(given / 255).detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(PipelineError, match="did you mean 'models:/digits_simclr@champion'"):
        load(tracker, "models:/digits_simclr@champoin")
    with pytest.raises(PipelineError, match="'models:/digits_simclr/1'"):
        load(tracker, "models:/digits_simclr/9")
    with pytest.raises(PipelineError, match="model 'zebra' is not registered; there are digits_simclr"):
        load(tracker, "zebra")


def test_an_export_that_differs_is_never_registered(tracker, run_id, encoder) -> None:
    class Counting(type(encoder)):
        calls = 0

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(given) + self.calls  # state that an exported graph freezes

    with pytest.raises(PipelineError, match=r"digits_simclr.*embeddings differ"):
        register(tracker, run_id, "digits_simclr", "k1", Counting(), [], TAGS, "")
    assert versions(tracker, "digits_simclr") == [] and champion(tracker, "digits_simclr") is None


def test_registration_leaves_the_process_as_it_was(tracker, run_id, encoder, monkeypatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
    register(tracker, run_id, "digits_simclr", "k1", encoder, [], TAGS, "")
    assert os.environ["MLFLOW_TRACKING_URI"] == mlflow.get_tracking_uri() == "sqlite:///elsewhere.db"
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" not in os.environ


def test_no_pickle_but_the_export_s_own_example(tracker, registered) -> None:
    found = [p for p in tracker.artifacts.rglob("*") if p.is_file()]
    assert not [p for p in found if p.suffix in (".pkl", ".pickle", ".pth", ".pt", ".bin", ".joblib")]
    (archive,) = [p for p in found if p.suffix == ".pt2"]
    with zipfile.ZipFile(archive) as pt2:
        zips = [n for n in pt2.namelist() if pt2.read(n).startswith(b"PK")]
        pickles = [n for n in pt2.namelist() if "/weights/" not in n and pt2.read(n).startswith(b"\x80")]
        assert zips == ["model/data/sample_inputs/model.pt"] and pickles == []
        with pt2.open(zips[0]) as file, zipfile.ZipFile(file) as example:
            (name,) = [n for n in example.namelist() if n.endswith("data.pkl")]
            operations = list(pickletools.genops(example.read(name)))
    called = {arg for op, arg, _ in operations if op.name == "GLOBAL"}
    assert called == {"torch._utils _rebuild_tensor_v2", "torch ByteStorage", "collections OrderedDict"}
    assert "STACK_GLOBAL" not in {op.name for op, _, _ in operations}


class Hostile:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_hostile_archive_is_refused_unread(tmp_path, encoder) -> None:
    from mlflow.models import Model

    model.save(DeployedEncoder(encoder), tmp_path / "model", [], Model())
    archive = tmp_path / "model" / "data" / "model.pt2"
    torch.save((Hostile(tmp_path / "owned"),), tmp_path / "payload.pt")
    with zipfile.ZipFile(archive) as before:
        records = {n: before.read(n) for n in before.namelist()}
    records["model/data/sample_inputs/model.pt"] = (tmp_path / "payload.pt").read_bytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as after:
        for name, content in records.items():
            after.writestr(name, content)
    with pytest.raises(PipelineError, match="sample_inputs"):
        model.read(tmp_path / "model")
    assert not (tmp_path / "owned").exists()


FRESH = """
import sys
sys.modules["ssl_pipeline"] = sys.modules["timm"] = None  # importing either is an error from here on
import mlflow, numpy, torch
name, folder = sys.argv[1:]
native = mlflow.pytorch.load_model(f"models:/{name}@champion")
torch.cuda.is_available = lambda: True  # where there is CUDA the model must still come up, on the CPU
served = mlflow.pyfunc.load_model(f"models:/{name}@champion")
for batch in (1, 2, 7, 64):
    images, expected = numpy.load(f"{folder}/images{batch}.npy"), numpy.load(f"{folder}/expected{batch}.npy")
    with torch.no_grad():
        numpy.testing.assert_allclose(native(torch.from_numpy(images)).numpy(), expected, rtol=1e-5, atol=1e-5)
    given = served.predict(images)
    assert given.dtype == numpy.float32
    numpy.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_a_fresh_process_needs_only_mlflow_and_torch(tracker, registered, encoder, tmp_path) -> None:
    promote(tracker, "digits_simclr", 1, "the first")
    for batch in (1, 2, 7, 64):
        given = images(batch)
        np.save(tmp_path / f"images{batch}.npy", given.numpy())
        np.save(tmp_path / f"expected{batch}.npy", encoder(given / 255).detach().numpy())
    said = subprocess.run(
        [sys.executable, "-I", "-c", FRESH, "digits_simclr", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": tracker.uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.stdout.strip().endswith("equal"), said.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "side", "channels"),
    [
        ("resnet10t", 28, 1),
        ("test_vit", 32, 3),
        ("test_resnet", 64, 3),
        ("test_convnext", 64, 3),
        ("test_vit3", 160, 3),
    ],
)
def test_backbones_survive_export(tmp_path, backbone, side, channels) -> None:
    from mlflow.models import Model

    from ssl_pipeline.encoders import encoder as encoders
    from ssl_pipeline.encoders.settings import ImageEncoder as Encoder

    encoder = encoders.build(Encoder(backbone=backbone, image_size=side, channels=channels), {"channels": channels})
    encoder(torch.rand(8, channels, side, side))  # moves running statistics
    model.save(DeployedEncoder(encoder), tmp_path / "model", [], Model())
    module, info = model.read(tmp_path / "model")
    assert info == {"shape": [channels, side, side], "dtype": "uint8", "dim": encoder.dim}
    encoder.eval()
    for batch in (1, 2, 7, 64):
        given = images(batch, side, channels)
        with torch.no_grad():
            torch.testing.assert_close(module(given), encoder(given / 255), rtol=1e-5, atol=1e-5)
