"""From the registry to a file, and what is left behind where that fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from ssl_pipeline import tracking
from ssl_pipeline.cli import app
from ssl_pipeline.export import export as exporting
from ssl_pipeline.export import onnx
from ssl_pipeline.export.export import FORMATS, export
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from tests.export.kinds import KINDS


@pytest.fixture
def project(tmp_path: Path, registered, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With one registered version, its champion."""
    monkeypatch.setenv("SSL_PIPELINE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    project = Project(tmp_path)
    found = registered(**KINDS["resnet"])
    tracker = tracking.Tracker(project.tracking_uri, project.artifacts)
    run_id = tracker.run("digits", "tiny", "k1", params={})
    version = tracking.register(
        tracker, run_id, "tiny", "k1", found.encoder, sorted(found.folder.iterdir()), {"dataset": "digits"}, "tiny"
    )
    tracking.promote(tracker, "tiny", version, "promoted: the first version")
    return project


def test_the_registered_model_becomes_a_file_and_nothing_else(project, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    said: list[str] = []
    output = tmp_path / "made" / "tiny.onnx"
    assert export(project, "tiny", "onnx", output, said.append) == output
    assert said[0].startswith("models:/tiny/1") and "of the largest number at most (1e-04 are allowed)" in said[1]
    model, takes = tracking.load(tracking.Tracker(project.tracking_uri, project.artifacts), "models:/tiny/1")
    stored = torch.randint(0, 256, (4, *takes["shape"]), dtype=torch.uint8)
    (given,) = onnxruntime.InferenceSession(output).run(None, {"image": stored.numpy()})
    np.testing.assert_allclose(given, model(stored), rtol=1e-3, atol=1e-4)
    with pytest.raises(PipelineError, match="tiny.onnx exists already: delete it or choose another place with -o"):
        export(project, "models:/tiny/1", "onnx", output, said.append)
    with pytest.raises(PipelineError, match="onnx is a file: name one that ends in .onnx"):
        export(project, "tiny", "onnx", tmp_path / "made" / "other", said.append)
    with pytest.raises(PipelineError, match="'tinny' is not registered; did you mean"):
        export(project, "tinny", "safetensors", tmp_path / "made" / "other", said.append)
    with pytest.raises(PipelineError, match="no format 'onxx' among .*; did you mean 'onnx'"):
        export(project, "tiny", "onxx", tmp_path / "made" / "other", said.append)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["tiny.onnx"]


def test_the_command_writes_a_folder(project, tmp_path, capsys) -> None:
    app(["export", "tiny", "-o", str(tmp_path / "tiny")], standalone_mode=False)
    assert "differs by 0.0e+00" in capsys.readouterr().out
    assert (tmp_path / "tiny" / "encoder.safetensors").exists()


@pytest.mark.parametrize("fault", ["other numbers", "no number", "other shape", "interrupted"])
def test_what_differs_is_named_and_never_seen(fault, registered, tmp_path, monkeypatch) -> None:
    found = registered(**KINDS["resnet"])
    form = exporting.form_of("safetensors")

    def compare(found, output):
        ours = torch.tensor([[1.0, -4.0]])
        if fault == "interrupted":
            raise KeyboardInterrupt
        yield "the embedding", ours, {
            "other numbers": ours + torch.tensor([[0.0, 0.004]]), "no number": ours * torch.nan, "other shape": ours[:, :1]
        }[fault]  # fmt: skip

    monkeypatch.setattr(form, "compare", compare)
    monkeypatch.setattr(form, "TOLERANCE", 1e-4)
    reason = {
        "other numbers": "the embedding differs there by 1.0e-03 of its largest number, and 1e-04 are allowed",
        "no number": "the embedding differs there by nan", "other shape": "is \\[1, 2\\] here and \\[1, 1\\] there",
        "interrupted": None,
    }[fault]  # fmt: skip
    with pytest.raises(KeyboardInterrupt if fault == "interrupted" else PipelineError, match=reason):
        exporting.write(form, found, "safetensors", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["extra_files"]
    monkeypatch.setattr(form, "TOLERANCE", 1.1e-3)
    if fault == "other numbers":
        assert exporting.write(form, found, "safetensors", tmp_path / "model") == pytest.approx(1e-3, rel=1e-3)


def test_a_package_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setattr(onnx, "NEEDS", ("onnx_of_tomorrow",))
    with pytest.raises(
        PipelineError, match=r"needs onnx_of_tomorrow: install them with pip install 'ssl_pipeline\[export\]'"
    ):
        exporting.form_of("onnx")


def test_the_commands_help_names_every_format() -> None:
    (option,) = (p for p in typer.main.get_command(app).commands["export"].params if p.name == "format")
    assert all(format in option.help for format in FORMATS)
