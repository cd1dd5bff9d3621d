"""A run that is cancelled in Dagster's UI, or by Ctrl-C, leaves no process behind and a checkpoint to go on from."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

CHECKOUT = Path(__file__).parents[2]


def training(root: Path) -> list[str]:
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [command for command in commands if f"ssl_pipeline.pretrain {root}" in command]


def wait_for_rows(root: Path, started: subprocess.Popen[str]) -> None:
    while not any(file.stat().st_size for file in root.glob("store/pretrained_encoder/*.partial/metrics.jsonl")):
        assert started.poll() is None
        time.sleep(0.1)


@pytest.fixture
def long_training(root: Path) -> Path:
    """Hours of it, in two processes under torchrun."""
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    recipes.write_text(recipes.read_text().replace("epochs: 12", "epochs: 90000, processes: 2"))
    return root


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_pipeline.cli", *arguments],
        cwd=CHECKOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(long_training: Path) -> None:
    """The whole foreground group gets it, as the terminal sends it."""
    started = start(long_training, "run", "shapes_simclr", "--to", "pretrained_encoder")
    wait_for_rows(long_training, started)
    assert len(training(long_training)) >= 3  # torchrun and two that train
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(120) == 130
    assert not training(long_training)
    assert list(long_training.glob("store/pretrained_encoder/*.partial/checkpoints/*.json"))


@pytest.mark.slow
def test_cancel_in_the_ui(long_training: Path) -> None:
    """Launched and terminated over GraphQL, as the buttons do it: the run worker is a child of Dagster's code server."""
    ports = [str(free_port()), str(free_port())]
    started = start(long_training, "up", "--port", ports[0], "--mlflow-port", ports[1])
    try:
        assert started.stdout
        for line in started.stdout:
            if line.startswith("Ctrl-C stops both"):
                break
        nodes: list[Any] = []
        while not nodes:
            found = ask(ports[0], "{repositoriesOrError{... on RepositoryConnection{nodes{name location{name}}}}}")
            nodes = found["repositoriesOrError"].get("nodes", [])
            time.sleep(1)
        where = f'repositoryLocationName: "{nodes[0]["location"]["name"]}", repositoryName: "{nodes[0]["name"]}"'
        launched = ask(
            ports[0],
            f'mutation{{launchRun(executionParams: {{selector: {{{where}, jobName: "shapes_simclr"}}, runConfigData: {{}}}})'
            "{__typename ... on LaunchRunSuccess{run{runId}} ... on PythonError{message}}}",
        )["launchRun"]
        run_id = launched["run"]["runId"]
        wait_for_rows(long_training, started)
        assert len(training(long_training)) >= 3
        ended = ask(
            ports[0], f'mutation{{terminateRun(runId: "{run_id}", terminatePolicy: SAFE_TERMINATE){{__typename}}}}'
        )
        assert ended["terminateRun"]["__typename"] == "TerminateRunSuccess"
        deadline = time.monotonic() + 120
        status = ""
        while training(long_training) or status != "CANCELED":
            assert time.monotonic() < deadline, (status, training(long_training))
            status = ask(ports[0], f'{{runOrError(runId: "{run_id}"){{... on Run{{status}}}}}}')["runOrError"]["status"]
            time.sleep(0.5)
        assert list(long_training.glob("store/pretrained_encoder/*.partial/checkpoints/*.json"))
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
    assert not training(long_training)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: str, query: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"content-type": "application/json"}
    )
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]
