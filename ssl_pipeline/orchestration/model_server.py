"""`ssl-pipeline serve`: MLflow's server on a registered model, for files and strings."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ssl_pipeline.orchestration.servers import Server, address, refuse_used, running, stopped_by_signals, until_stopped
from ssl_pipeline.project import Project
from ssl_pipeline.tracking.served import served


def serve(project: Project, uri: str, port: int, host: str, say: Callable[[str], None]) -> None:
    """MLflow's server on that model until Ctrl-C or TERM. Raises PipelineError where the port is in use, or
    the server dies again and again."""
    refuse_used(host, port, "--port")
    url = f"http://{address(host)}:{port}"
    with stopped_by_signals() as stopped, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        version = served(project, uri, folder)
        line, environment = command(str(folder), port, host)
        name, log = f"{version.name} version {version.version}", project.store.root / "logs" / "serving.log"
        server = Server("serving", f"{url}/ping", log, line, environment, Path(scratch))
        with running([server]):
            say(f"starting {name}; this takes half a minute (log in {log})")
            until_stopped([server], stopped, lambda _: say(f"{name}: {url}/invocations\nCtrl-C stops it"), say)
            say("stopping")


def command(model: str, port: int, host: str) -> tuple[list[str], dict[str, str]]:
    """MLflow's command line for a model's URI or folder, and the environment in which it runs."""
    line = [
        "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local", "--workers", "1",
        "--host", host, "--port", str(port),
    ]  # fmt: skip
    return line, os.environ | {
        # MLflow finds uvicorn there
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
