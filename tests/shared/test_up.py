"""`ssl-pipeline up` for a team: both servers on PostgreSQL, accounts on, nothing secret where others can look."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from ssl_pipeline import database
from ssl_pipeline.tracking import Tracker
from tests.orchestration.conftest import ROOT
from tests.shared.conftest import SECRET, Postgres, free_port


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_up_serves_a_team(root: Path, postgres: Postgres, s3: str) -> None:
    (root / "accounts.ini").write_text(
        "[mlflow]\ndefault_permission = MANAGE\nadmin_username = admin\n"
        f"database_uri = sqlite:///{root}/accounts.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    names, ports = (f"up_dagster_{os.getpid()}", f"up_mlflow_{os.getpid()}"), (free_port(), free_port())
    environment = os.environ | {
        database.VARIABLE: postgres.create(names[0]), "MLFLOW_BACKEND_STORE_URI": postgres.create(names[1]),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/up", "MLFLOW_AUTH_CONFIG_PATH": str(root / "accounts.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": f"{SECRET}-mlflow", "MLFLOW_FLASK_SERVER_SECRET_KEY": f"{SECRET}-flask",
    }  # fmt: skip
    command = [sys.executable, "-m", "ssl_pipeline.cli", "up", "--port", str(ports[0]), "--mlflow-port", str(ports[1])]
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert child.stdout
        said = []
        for line in child.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        assert any("mlflow: http" in line for line in said) and child.poll() is None, said
        assert requests.get(f"http://127.0.0.1:{ports[1]}/api/2.0/mlflow/users/current", timeout=30).status_code == 401
        tracker = Tracker(f"http://admin:{SECRET}-mlflow@127.0.0.1:{ports[1]}", root / "own" / "artifacts")
        run = tracker.run("d", "r", "k")
        tracker.log_files(run, [root / "dagster.yaml"])
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        assert len(family) > 3 and not [p for p in family if SECRET in " ".join(p.cmdline())]
        deadline = time.monotonic() + 120
        while "daemon_heartbeats" not in postgres.text(names[0]):  # the daemon is at work on the shared database
            assert time.monotonic() < deadline
            time.sleep(2)
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=120)
    assert not [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert all(SECRET not in postgres.text(name) for name in names) and not list((root / "store").rglob("runs.db"))
