"""`ssl-pipeline up`: Dagster and MLflow on the project's store, in one terminal, stopped together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ssl_pipeline.orchestration.defs_folder import root_module
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project

PATIENCE_SECONDS = 20
"""What a server gets to end by itself before it is killed."""


@dataclass
class Server:
    """A child in a process group of its own, what it prints, and where it answers."""

    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def up(project: Project, port: int, mlflow_port: int, host: str, say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or TERM. Raises PipelineError where a port is in use or a server dies."""
    tracks_here = not project.tracking_uri.startswith(("http://", "https://"))
    for option, wanted in [("--port", port)] + [("--mlflow-port", mlflow_port)] * tracks_here:
        refuse_used(host, wanted, option)
    mlflow_url = f"http://{address(host)}:{mlflow_port}" if tracks_here else project.tracking_uri
    dagster_url = f"http://{address(host)}:{port}"
    environment = os.environ | {
        "DAGSTER_HOME": str(project.root), "SSL_PIPELINE_MLFLOW_UI": mlflow_url, "SSL_PIPELINE_DAGSTER_UI": dagster_url,
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    reap_dead_runs(project, say)
    folder, module = root_module(project)
    if module == "ssl_pipeline":  # a folder of this name, with recipes only, would hide the package
        folder = Path(__file__).parents[2]
    dagster = ["dagster", "dev", "-m", f"{module}.definitions", "--host", host, "--port", str(port)]
    with stopped_by_signals() as stopped, servers() as started:
        started.append(start(project, "dagster", dagster_url, dagster, environment, folder))
        if tracks_here:
            project.artifacts.mkdir(parents=True, exist_ok=True)
            mlflow = [
                "mlflow", "server", "--backend-store-uri", project.tracking_uri, "--workers", "1",
                "--default-artifact-root", project.artifacts.as_uri(), "--host", host, "--port", str(mlflow_port),
            ]  # fmt: skip
            started.append(start(project, "mlflow", mlflow_url, mlflow, environment, folder))
        say(f"starting; this takes half a minute (logs in {project.store.root / 'logs'})")
        waiting = [server.name for server in started]

        def announce(server: Server) -> None:
            say(f"{server.name}: {server.url}")
            waiting.remove(server.name)
            if not waiting:
                say("Ctrl-C stops both")

        until_stopped(started, stopped, announce)
        say("stopping")
    for empty in ("logs", ".logs_queue"):  # Dagster makes them for telemetry, even where that is off
        with suppress(OSError):
            (project.root / empty).rmdir()


def until_stopped(started: list[Server], stopped: Callable[[], bool], announce: Callable[[Server], None]) -> None:
    """Waits; announces each server once, as soon as it answers. Raises PipelineError where one dies."""
    waiting = list(started)
    while not stopped():
        for server in [s for s in waiting if s.answers()]:
            announce(server)
            waiting.remove(server)
        for server in started:
            if server.process.poll() is not None:
                why = f"{last_line(server.log)} (all of it: {server.log})"
                raise PipelineError(f"{server.name} stopped by itself: {why}")
        time.sleep(0.3)


def start(
    project: Project, name: str, url: str, command: list[str], environment: dict[str, str], folder: Path
) -> Server:
    log = project.store.root / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    return Server(name, url, log, process)


@contextmanager
def servers() -> Iterator[list[Server]]:
    """A list of servers that are all stopped at the end, with whatever they started."""
    started: list[Server] = []
    try:
        yield started
    finally:
        stop([server.process.pid for server in started])


def stop(leaders: list[int]) -> None:
    """INT to each process group, as a terminal would send it; KILL to every descendant that is there after that."""
    family: list[psutil.Process] = []
    for pid in leaders:
        try:
            leader = psutil.Process(pid)
            family += [leader, *leader.children(recursive=True)]
            os.killpg(pid, signal.SIGINT)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    _, stubborn = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(stubborn, timeout=5)


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Whether INT, TERM or HUP has come. Handlers also undo a SIGINT that was inherited as ignored, which the children
    would inherit in turn."""
    came: list[int] = []
    before = {s: signal.signal(s, lambda n, _: came.append(n)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_used(host: str, port: int, option: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PipelineError(
                f"port {port} on {host} cannot be used ({error.strerror}): free it or choose another with {option}"
            ) from error


def reap_dead_runs(project: Project, say: Callable[[str], None]) -> None:
    import dagster as dg

    from ssl_pipeline.orchestration.reaper import reap

    os.environ.setdefault("DAGSTER_HOME", str(project.root))
    with dg.DagsterInstance.get() as instance:
        for dead in reap(instance):
            say(f"run {dead[:8]} was killed earlier; marked as failed")


def address(host: str) -> str:
    """What a browser on this machine calls `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


def last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"])[-1]
