"""`compose.yaml`: whole, without a secret, and its services work together, as processes of one machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
import yaml

from ssl_pipeline import database, tracking
from ssl_pipeline.tracking import Tracker
from tests.shared.conftest import SECRET, Postgres, free_port
from tests.up import Pages

ROOT = Path(__file__).parents[2]


def test_every_reference_is_there_and_every_secret_comes_from_the_environment() -> None:
    text = (ROOT / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "s3", "bucket", "mlflow", "webserver", "daemon"}
    declared = yaml.safe_load(text)
    for name, service in services.items():
        assert service.get("image"), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert {c["source"] for c in service.get("configs", [])} <= set(declared["configs"]), name
        named = {v.split(":")[0] for v in service.get("volumes", [])} - {"."}
        assert named <= set(declared["volumes"]), name
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?set it in \.env\}", value), f"{name}: {variable}"
            assert not re.search(r"//[^/]*:[^/]*@", value), f"{name}: {variable} holds a password"
    example = dict(
        line.split("=", 1) for line in (ROOT / "docs/shared.env.example").read_text().splitlines() if line[0] != "#"
    )
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    assert not any(value for name, value in example.items() if re.search(r"PASSWORD|SECRET|KEY", name))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_services_train_and_register(
    root: Path, postgres: Postgres, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command in its own environment, in the order of `depends_on`; containers' names and paths are this machine's instead,
    and PostgreSQL and S3 are the tests' servers."""
    ports = {name: str(free_port()) for name in ("mlflow", "webserver")}
    env = {name: f"{SECRET}-{name}" for name in re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text())}
    places = {
        "@postgres/": f"@127.0.0.1:{postgres.port}/", "http://s3:8333": s3, "http://mlflow:5000": f"http://127.0.0.1:{ports['mlflow']}",
        "http://localhost:5000": f"http://127.0.0.1:{ports['mlflow']}", "mlflow:5000": f"127.0.0.1:{ports['mlflow']}",
        "0.0.0.0": "127.0.0.1", "/project": str(root), "/store": str(root / "store"), "/accounts": str(root / "accounts"),
    }  # fmt: skip
    text = re.sub(
        r"\$\{(\w+)(?::[?-]([^}]*))?\}",
        lambda said: env.get(said[1], said[2] or ""),
        (ROOT / "compose.yaml").read_text(),
    )
    text = re.sub(
        "|".join(rf"(?<!\w){re.escape(p)}" if p[0] == "/" else re.escape(p) for p in places),
        lambda said: places[said[0]],
        text,
    )
    composed = yaml.safe_load(text)
    services = composed["services"]
    for variable in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_", "SSL_PIPELINE_", "DAGSTER_"))]:
        monkeypatch.delenv(variable)  # a container has what its service says

    (root / "accounts").mkdir()
    (root / "accounts.ini").write_text(composed["configs"]["accounts"]["content"])
    of = services["postgres"]["environment"]
    make = [
        f"DROP DATABASE IF EXISTS {of['POSTGRES_DB']}",
        "DROP DATABASE IF EXISTS mlflow",
        f"DROP ROLE IF EXISTS {of['POSTGRES_USER']}",
    ]
    make += [
        f"CREATE ROLE {of['POSTGRES_USER']} SUPERUSER LOGIN PASSWORD '{of['POSTGRES_PASSWORD']}'",
        f"CREATE DATABASE {of['POSTGRES_DB']}",
    ]
    admin = psycopg2.connect(postgres.url("postgres"))
    admin.autocommit = True
    for line in [*make, composed["configs"]["databases"]["content"]]:
        admin.cursor().execute(line)
    admin.close()

    with ExitStack() as running:
        bucket = services["bucket"]
        subprocess.run([sys.executable, *bucket["command"][1:]], env=os.environ | bucket["environment"], check=True)
        for name in ("mlflow", "webserver", "daemon"):
            log = root / f"{name}.log"
            process = running.enter_context(service(services[name], ports.get(name, ""), log))
            if name in ports:
                wait_for(
                    f"http://127.0.0.1:{ports[name]}{'/health' if name == 'mlflow' else '/server_info'}", process, log
                )
        pages = Pages(int(ports["webserver"]))
        run_id = pages.launch("shapes_simclr")
        status, until = "", time.monotonic() + 300
        while status not in ("SUCCESS", "FAILURE"):
            assert time.monotonic() < until, (root / "daemon.log").read_text()
            status = pages.ask(f'{{runOrError(runId: "{run_id}"){{... on Run{{status}}}}}}')["runOrError"]["status"]
            time.sleep(1)
        assert status == "SUCCESS", (root / "daemon.log").read_text()
        for name, value in services["daemon"]["environment"].items():
            monkeypatch.setenv(name, value)
        tracker = Tracker(os.environ["MLFLOW_TRACKING_URI"], root / "own" / "artifacts")
        registered = tracking.champion(tracker, "shapes_simclr")
        assert registered and registered.version == 1
        with tracking.downloaded(tracker, "shapes_simclr") as (_, folder):  # out of S3, through MLflow's server
            assert (folder / "extra_files" / "encoder.safetensors").exists()
        assert run_id in postgres.text("dagster") and registered.run_id in postgres.text("mlflow")
    assert database.url() and not [path for path in root.rglob("*.log") if SECRET in path.read_text(errors="replace")]


@contextmanager
def service(said: dict[str, Any], port: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    program, *arguments = said["command"]
    arguments = [port if argument in ("3000", "5000") else argument for argument in arguments]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments], cwd=ROOT, env=os.environ | said["environment"],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
        assert process.poll() is None, log.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until, answer = time.monotonic() + 120, None
    while not (answer and answer.ok):
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        with suppress(requests.RequestException):
            answer = requests.get(url, timeout=5)
        time.sleep(0.5)
