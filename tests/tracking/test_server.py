"""The same through a real tracking server: other code of MLflow's, and files that travel over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch

from ssl_pipeline.part import PipelineError
from ssl_pipeline.tracking import Tracker, aliases, champion, load, promote, register, rollback, versions
from ssl_pipeline.tracking import history as moves_of


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path, database: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "served"),
    ]  # fmt: skip
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    process.url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if requests.get(f"{process.url}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.slow
def test_from_run_to_champion_through_a_server(server, tmp_path, encoder, files) -> None:
    tracker = Tracker(server.url, tmp_path / "local" / "artifacts")
    run_id = tracker.run("digits", "simclr", "k1", {"stage": "pretrain"}, {"epochs": 3})
    assert Tracker(server.url, tmp_path / "local" / "artifacts").run("digits", "simclr", "k1") == run_id
    rows = [{"step": s, "loss": 1 / (s + 1), "rank": float(s)} for s in range(1200)]
    tracker.log_curve(run_id, rows[:900])
    tracker.log_curve(run_id, [*rows, {"step": 1200, "loss": float("nan"), "rank": float("inf")}])
    for _ in range(2):
        tracker.log_dataset(run_id, "digits", "0" * 32 + ".dir", "data/digits")
    tracker.log_metrics(run_id, {"classification/linear/accuracy/10": 0.9})
    tracker.log_files(run_id, files, "weights")
    with tracker.connected() as client:
        history = client.get_metric_history(run_id, "loss")
        assert sorted(m.step for m in history) == list(range(1201))
        assert [d.dataset.digest for d in client.get_run(run_id).inputs.dataset_inputs] == ["0" * 32 + ".dir"]
        assert len(client.list_artifacts(run_id, "weights")) == 3

    for _ in range(2):
        assert register(tracker, run_id, "digits_simclr", "k1", encoder, files, {"dataset": "digits"}, "card") == 1
    assert register(tracker, run_id, "digits_simclr", "k2", encoder, files, {"dataset": "digits"}, "card") == 2
    promote(tracker, "digits_simclr", 1, "the first")
    promote(tracker, "digits_simclr", 2, "better")
    reigning = champion(tracker, "digits_simclr")
    assert reigning and reigning.version == 2 and reigning.tags["content_key"] == "k2"
    assert [(m.alias, m.version) for m in moves_of(tracker, "digits_simclr")] == [("champion", 1), ("champion", 2)]
    with tracker.connected() as client:
        assert aliases(client, "digits_simclr") == {"champion": 2, "previous": 1}
    assert rollback(tracker, "digits_simclr", "too slow") == 1
    promote(tracker, "digits_simclr", 2, "not so slow after all")
    module, info = load(tracker, "models:/digits_simclr@champion")
    assert info["version"] == 2
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(module(images), encoder(images / 255).detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(PipelineError, match="did you mean 'models:/digits_simclr/2'"):
        load(tracker, "models:/digits_simclr/3")
    assert champion(tracker, "no_such_model") is None and versions(tracker, "no_such_model") == []
    assert not (tmp_path / "local" / "artifacts").exists()

    stop(server)
    with pytest.raises(PipelineError, match="MLFLOW_TRACKING_URI"):
        Tracker(server.url, tmp_path / "local" / "artifacts").run("digits", "simclr", "k1")
