"""`ssl-pipeline up` as a test starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).parents[1]


def start(*arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """The command line, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_pipeline.cli", *arguments],
        cwd=CHECKOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=stderr, text=True,
        start_new_session=True,
    )  # fmt: skip


def training(root: Path) -> list[int]:
    """Processes that train in this project."""
    return [p.pid for p in psutil.process_iter() if f"ssl_pipeline.pretrain {root}" in words(p)]


def words(process: psutil.Process) -> str:
    """Its command; empty where it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pages:
    """Dagster's web server, asked over GraphQL as its pages ask."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, query: str) -> dict[str, Any]:
        asked = json.dumps({"query": query}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", asked, {"content-type": "application/json"}
        )
        return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]

    def launch(self, job: str) -> str:
        """Starts a job as its button does; the id of its run."""
        nodes: list[Any] = []
        while not nodes:  # the code location loads after the server answers
            found = self.ask("{repositoriesOrError{... on RepositoryConnection{nodes{name location{name}}}}}")
            nodes = found["repositoriesOrError"].get("nodes", [])
            time.sleep(1)
        where = f'repositoryLocationName: "{nodes[0]["location"]["name"]}", repositoryName: "{nodes[0]["name"]}"'
        launched = self.ask(
            f'mutation{{launchRun(executionParams: {{selector: {{{where}, jobName: "{job}"}}, runConfigData: {{}}}})'
            "{__typename ... on LaunchRunSuccess{run{runId}} ... on PythonError{message}}}"
        )["launchRun"]
        return launched["run"]["runId"]


class Up(Pages):
    """The running command and what it has said so far."""

    def __init__(self, *ports: int) -> None:
        port, self.mlflow_port = ports or (free_port(), free_port())
        super().__init__(port)
        self.said: list[str] = []
        self.process = start("up", "--port", str(self.port), "--mlflow-port", str(self.mlflow_port))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip())

    def wait_for(self, *wanted: str, after: int = 0, seconds: float = 180) -> None:
        """Until lines that begin so were said, since line `after`."""
        until = time.monotonic() + seconds
        while not all(any(line.startswith(one) for line in self.said[after:]) for one in wanted):
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.2)

    def stop(self) -> None:
        """Ctrl-C, which must end it well."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0

    def child(self, *wanted: str) -> psutil.Process:
        """The process below `up` whose command has all these words."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        (found,) = [p for p in below if all(one in words(p) for one in wanted)]
        return found


@contextmanager
def up() -> Iterator[Up]:
    served = Up()
    try:
        served.wait_for("Ctrl-C stops both")
        yield served
    finally:
        served.stop()
