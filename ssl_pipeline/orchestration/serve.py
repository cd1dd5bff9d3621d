"""`ssl-pipeline up`: Dagster and MLflow on the project's store, in one terminal, stopped together; what dies is started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ssl_pipeline import database
from ssl_pipeline.orchestration.defs_folder import root_module
from ssl_pipeline.orchestration.servers import (
    Server,
    address,
    kill_left,
    refuse_used,
    running,
    stopped_by_signals,
    until_stopped,
)
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project


def up(project: Project, port: int, mlflow_port: int, host: str, say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or TERM. Raises PipelineError where a port is in use or a server dies again and again."""
    shares = bool(os.environ.get("MLFLOW_BACKEND_STORE_URI"))
    tracks_here = shares or not project.tracks_on_a_server
    mlflow_url = f"http://{address(host)}:{mlflow_port}" if tracks_here else project.tracking_place
    dagster_url = f"http://{address(host)}:{port}"
    environment = os.environ | {
        "DAGSTER_HOME": str(project.root), "SSL_PIPELINE_MLFLOW_UI": mlflow_url, "SSL_PIPELINE_DAGSTER_UI": dagster_url,
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    if shares and not os.environ.get("MLFLOW_TRACKING_URI"):
        environment["MLFLOW_TRACKING_URI"] = mlflow_url  # runs that start in Dagster go where everyone's go
    folder, module = root_module(project)
    if module == "ssl_pipeline":  # a folder of this name, with recipes only, would hide the package
        folder = Path(__file__).parents[2]
    dagster = ["dagster", "dev", "-m", f"{module}.definitions", "--host", host, "--port", str(port)]
    logs = project.store.root / "logs"
    served = [Server("dagster", dagster_url, logs / "dagster.log", dagster, environment, folder)]
    if tracks_here:
        mlflow = ["mlflow", "server", "--workers", "1", "--host", host, "--port", str(mlflow_port)]
        if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
            mlflow += ["--app-name", "basic-auth"]
        served.append(Server("mlflow", mlflow_url, logs / "mlflow.log", mlflow, environment | stores(project), folder))

    def announce(server: Server) -> None:
        say(f"{server.name}: {server.url}")
        if all(one.answered for one in served):
            say("Ctrl-C stops both")

    with stopped_by_signals() as stopped, alone(logs):
        for server in served:
            kill_left(server, say)
        for option, wanted in [("--port", port)] + [("--mlflow-port", mlflow_port)] * tracks_here:
            refuse_used(host, wanted, option)
        project.artifacts.mkdir(parents=True, exist_ok=True)
        reap_dead_runs(project, say)
        with running(served):
            say(f"starting; this takes half a minute (logs in {logs})")
            until_stopped(served, stopped, announce, say, tidy=lambda: reap_dead_runs(project, say))
            say("stopping")
    for empty in ("logs", ".logs_queue"):  # Dagster makes them for telemetry, even where that is off
        with suppress(OSError):
            (project.root / empty).rmdir()


@contextmanager
def alone(logs: Path) -> Iterator[None]:
    """Two daemons on one store would start everything twice."""
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(logs / "up.lock", timeout=0):
            yield
    except Timeout:
        raise PipelineError(
            f"`ssl-pipeline up` serves this store already (its logs are in {logs}): stop that one first"
        ) from None


def stores(project: Project) -> dict[str, str]:
    """Where MLflow's server keeps what, in variables: a command line, which may hold a password, is open to everyone on the
    machine. One that others use passes their files on to a place that only it needs to reach."""
    backend, files = os.environ.get("MLFLOW_BACKEND_STORE_URI"), project.artifacts.as_uri()
    if not backend:
        backend, place = project.tracking_uri, {"MLFLOW_DEFAULT_ARTIFACT_ROOT": files}
    else:
        place = {"MLFLOW_ARTIFACTS_DESTINATION": os.environ.get("MLFLOW_ARTIFACTS_DESTINATION") or files}
    return place | {"MLFLOW_BACKEND_STORE_URI": database.with_driver(backend)}


def reap_dead_runs(project: Project, say: Callable[[str], None]) -> None:
    from ssl_pipeline.orchestration.instance import instance
    from ssl_pipeline.orchestration.reaper import reap

    with instance(project) as opened:
        for dead in reap(opened):
            say(f"run {dead[:8]} was killed earlier; marked as failed")
