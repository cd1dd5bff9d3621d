"""Models of three kinds, briefly trained and registered, and MLflow's server on one of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from ssl_pipeline import chain
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe, load
from ssl_pipeline.store import Stage

DEFS = Path(chain.__file__).parent / "defs"
RECIPES = {"image": "digits_simclr", "text": "titles_crops", "audio": "notes_simclr"}


def light(name: str) -> Recipe:
    """The recipe for one epoch, in fp32, so that its features are the registered model's answers."""
    said = load(DEFS / name / "defs.yaml")[1][0].model_dump(mode="json")
    pretrain = said["pretrain"] | {"epochs": 1, "warmup_epochs": 0.5, "precision": "fp32"}
    return Recipe.model_validate(said | {"evaluations": [], "promote": None, "pretrain": pretrain})


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / "dvc"))
        patch.setenv("DAGSTER_HOME", str(root))
        for name in ("MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE"):
            patch.delenv(name, raising=False)
        yield Project(root)


@pytest.fixture(scope="session")
def registered(project: Project) -> Callable[[str], dict[str, Stage]]:
    """A kind of data -> the stages of its model."""
    done: dict[str, dict[str, Stage]] = {}

    def build(kind: str) -> dict[str, Stage]:
        if kind not in done:
            recipe = light(RECIPES[kind])
            (dataset,) = load(DEFS / recipe.dataset / "defs.yaml")[0]
            done[kind] = chain.run_recipe(recipe, dataset, project, say=lambda line: None)
        return done[kind]

    return build


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(model: str, project: Project, folder: Path) -> Iterator[str]:
    """MLflow's own command on a model, where importing this package fails; yields the address for requests."""
    blocked = folder / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "ssl_pipeline.py").write_text("raise ImportError('this process is to do without the package')")
    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        model,
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(blocked),
        "MLFLOW_TRACKING_URI": project.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "server.log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    for _ in range(240):
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            assert process.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def answers(url: str, rows: list[Any], ask: Callable[[list[Any]], dict[str, Any]]) -> np.ndarray:
    """The embeddings of all rows, a hundred a request."""
    found: list[Any] = []
    for start in range(0, len(rows), 100):
        answer = requests.post(url, json=ask(rows[start : start + 100]), timeout=120)
        assert answer.ok, answer.text[-2000:]
        found += answer.json()["predictions"]
    return np.array([one["embedding"] if isinstance(one, dict) else one for one in found], np.float32)
