"""MLflow's server hangs, is killed, and comes back, while a recipe runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker
from tests.up import free_port, start


class Server:
    """`mlflow server` on a port and a database that stay."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", str(self.folder / "files"),
        ]  # fmt: skip
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            )  # fmt: skip

    def wait(self) -> None:
        while True:
            try:
                if requests.get(f"{self.url}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.3)

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError, AttributeError):  # gone, or not started yet
            os.killpg(self.process.pid, number)


@pytest.mark.slow
def test_curves_are_complete_after_mlflow_was_away(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts later than the recipe, hangs for longer than a request waits, so that points may arrive twice, and then is dead
    until after the training."""
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    recipes.write_text(recipes.read_text().replace("epochs: 12", "epochs: 200"))
    server = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # else minutes
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    started, said = start("run", "shapes_simclr", "--to", "features"), list[str]()
    listener = threading.Thread(target=lambda: said.extend(started.stdout or []))
    listener.start()
    try:
        wait_for("waiting for MLflow, ", said, started)
        server.start()
        server.wait()
        while not list(root.glob("store/pretrained_encoder/*.partial/metrics.jsonl")):
            assert started.poll() is None
            time.sleep(0.05)
        time.sleep(2)
        server.send(signal.SIGSTOP)
        wait_for("training goes on, its curves are kept and sent later: MLflow at", said, started)
        server.send(signal.SIGCONT)
        time.sleep(3)  # it sees to what had waited in line
        server.send(signal.SIGKILL)
        server.process.wait()
        wait_for("waiting for MLflow, 600 s at most: ", said, started)
        assert list(root.glob("store/pretrained_encoder/*.partial/encoder.safetensors"))
        server.start()
        assert started.wait(180) == 0, said
        listener.join()
        (folder,) = (path for path in root.glob("store/pretrained_encoder/*") if path.is_dir())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        wanted = {(name, row["step"]) for row in rows for name in row if name not in ("step", "time", "total_steps")}
        run_id = json.loads((folder / "stage.json").read_text())["summary"]["mlflow_run_id"]
        names = {name for name, _ in wanted}
        with open_tracker(Project(root)).connected() as client:
            run = client.get_run(run_id)
            points = [point for name in names for point in client.get_metric_history(run_id, name)]
        assert Counter((point.key, point.step) for point in points) == Counter(wanted)
        when = {row["step"]: row["time"] for row in rows if "loss" in row}
        assert all(abs(p.timestamp / 1000 - when[p.step]) < 0.01 for p in points if p.key == "loss")
        assert run.info.status == "FINISHED" and any(name.startswith("features/") for name in run.data.metrics)
    finally:
        started.terminate()
        server.send(signal.SIGKILL)


def wait_for(words: str, said: list[str], started: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not any(words in line for line in said):
        assert started.poll() is None and time.monotonic() < until, said
        time.sleep(0.1)
