"""What of a stage is shown in the UI."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pipeline.orchestration import metadata
from ssl_pipeline.store import Stage


def stage(folder: Path, summary: dict[str, object], reused: bool = False) -> Stage:
    return Stage("classification", "0" * 16, folder, summary, reused)


def test_summary_becomes_numbers_and_tables(tmp_path: Path) -> None:
    cell = {"mean": 0.91234567, "low": 0.8, "high": 1.0}
    shown = metadata.of(
        stage(
            tmp_path,
            {
                "samples": 5, "loss": 0.5, "classes": ["a", "b"], "balance": {"a": 2, "b": 3}, "nothing": None,
                "metrics": {"classification/knn/accuracy/10": cell},
                "baselines": {"raw pixels": {"classification/knn/accuracy/10": cell}},
                "gates": [{"name": "data_pinned", "passed": True, "detail": "ok"}],
            },
            reused=True,
        )
    )  # fmt: skip
    assert shown["made"].value == "reused" and shown["samples"].value == 5 and shown["loss"].value == 0.5
    assert shown["classes"].value == "a, b" and "nothing" not in shown
    assert [row.data for row in shown["balance"].records] == [
        {"balance": "a", "value": 2},
        {"balance": "b", "value": 3},
    ]
    assert [row.data for row in shown["metrics"].records] == [
        {"metric": "knn / accuracy / 10", "method": "this recipe", "mean": 0.912, "low": 0.8, "high": 1.0},
        {"metric": "knn / accuracy / 10", "method": "raw pixels", "mean": 0.912, "low": 0.8, "high": 1.0},
    ]
    assert shown["gates"].records[0].data["passed"] is True
    assert shown["folder"].value == str(tmp_path)


def test_links_and_pictures_come_before_numbers_and_long_tables(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "learning.png")
    summary = {"balance": {"a": 2}, "samples": 5, "mlflow_url": "#/experiments/1/runs/abc", "table": "| a |\n| - |"}
    shown = metadata.of(stage(tmp_path, summary))
    assert list(shown) == ["made", "mlflow run", "table", "picture: learning", "samples", "balance", "folder"]


def test_large_picture_is_scaled_down(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise_sheet.png")
    text = str(metadata.of(stage(tmp_path, {}))["picture: noise sheet"].value)
    data = base64.b64decode(text.partition("base64,")[2].rstrip(")"))
    assert text.startswith("![noise sheet](data:image/png;base64,") and len(data) <= metadata.LARGEST_PICTURE
    assert Image.open(io.BytesIO(data)).width < 900


def test_links_lead_to_the_server_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"name": "m", "version": 3, "uri": "models:/m/3", "mlflow_url": "#/experiments/1/runs/abc"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SSL_PIPELINE_MLFLOW_UI", "http://127.0.0.1:5999")
    shown = metadata.of(stage(tmp_path, summary))
    assert shown["mlflow model"].value == "http://127.0.0.1:5999/#/models/m/versions/3?workflowType=machine_learning"
    assert shown["mlflow run"].value == "http://127.0.0.1:5999/#/experiments/1/runs/abc?workflowType=machine_learning"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/")
    assert str(metadata.of(stage(tmp_path, summary))["mlflow model"].value).startswith("https://mlflow.example.org/#/")
