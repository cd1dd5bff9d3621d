"""Each check with the fault that it is for, caused for real where a test can."""

from __future__ import annotations

import http.server
import json
import os
import re
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from ssl_pipeline import doctor, tracking
from ssl_pipeline.project import Project

ROOT = Path(__file__).parents[1]
orchestration = runpy.run_path(str(ROOT / "tests" / "orchestration" / "conftest.py"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    defs = tmp_path / "ssl_pipeline" / "defs" / "shapes"
    defs.mkdir(parents=True)
    (defs / "defs.yaml").write_text(orchestration["DEFS"])
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return Project(tmp_path)


def states(check, project: Project) -> list[tuple[str, str]]:
    found = doctor.findings(check, project)
    assert all(one.cure for one in found if one.state != "ok")
    assert all("\n" not in one.detail + one.cure for one in found)
    return [(one.name, one.state) for one in found]


def detail(check, project: Project) -> str:
    return doctor.findings(check, project)[-1].detail


def test_a_check_that_raises_is_broken_and_the_others_go_on(project: Project, monkeypatch) -> None:
    def odd_one(project: Project) -> doctor.Finding:
        raise ZeroDivisionError("in\nthe check")

    monkeypatch.setattr(doctor, "CHECKS", [odd_one, doctor.python])
    first, second = doctor.examine(project)
    assert (first.name, first.state, first.detail) == ("odd one", "broken", "ZeroDivisionError: in the check")
    assert second.state == "ok" and not doctor.healthy([first, second])


def test_one_broken_recipe_is_named_and_the_others_are_listed(project: Project) -> None:
    assert states(doctor.recipes, project) == [("recipes", "ok")]
    other = project.root / "ssl_pipeline" / "defs" / "cats" / "defs.yaml"
    other.parent.mkdir()
    other.write_text("type: ssl_pipeline.Dataset\nattributes: {name: cats, sauce: {kind: demo}}\n")
    assert states(doctor.recipes, project) == [("recipes", "ok"), ("recipe cats", "broken")]
    listed, broken = doctor.findings(doctor.recipes, project)
    assert "shapes_simclr" in listed.detail and "sauce" in broken.detail and str(other) in broken.cure
    other.write_text("type: [")
    assert states(doctor.recipes, project)[1] == ("recipe cats", "broken")
    other.write_text(orchestration["DEFS"].replace("name: shapes\n", "name: shapes2\n"))
    assert states(doctor.recipes, project)[1] == ("recipes together", "broken")


def test_packages_beside_the_lock_file(project: Project) -> None:
    lock = project.root / "requirements.lock"
    lock.write_text("numpy==0.1 ; python_version < '3'\nunheard-of==1\n")
    assert states(doctor.packages, project) == [("packages", "ok")]
    lock.write_text("numpy==1.0\n")
    assert states(doctor.packages, project) == [("packages", "warning")]
    lock.write_text("antlr4-python3-runtime==4.9.3\nnumpy==1.0\n")
    assert states(doctor.packages, project) == [("packages", "broken")]
    assert "instead of 4.9.3" in detail(doctor.packages, project)


def test_the_instance_and_its_dead_runs(project: Project) -> None:
    assert states(doctor.dead_runs, project) == [("dead runs", "ok")] and not project.store.root.exists()
    script = (
        "import dagster as dg, time\n"
        "@dg.asset\n"
        "def forever(): print('started', flush=True); time.sleep(600)\n"
        "dg.materialize([forever], instance=dg.DagsterInstance.get())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout and b"started" in child.stdout.readline()
    assert states(doctor.dead_runs, project) == [("dead runs", "ok")]
    assert detail(doctor.dagster_instance, project) == "1 runs"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert states(doctor.dead_runs, project) == [("dead runs", "warning")]
    for database in (project.store.root / "dagster").rglob("*.db"):
        database.write_bytes(b"no database" * 1000)
    assert states(doctor.dagster_instance, project) == [("dagster instance", "broken")]
    (project.root / "dagster.yaml").write_text("storage: [")
    assert states(doctor.dagster_instance, project) == [("dagster instance", "broken")]


def test_what_failed_and_was_not_made_since(project: Project) -> None:
    assert states(doctor.failed, project) == [("failed", "ok")] and not project.store.root.exists()
    broken = True

    @dg.asset(key_prefix="cats")
    def features() -> None:
        if broken:
            raise ValueError("no room for [features]")

    @dg.asset(key_prefix="dogs", name="features")
    def others() -> None:
        raise KeyboardInterrupt

    @dg.asset(key_prefix="digits")
    def dataset() -> None: ...

    def run(*assets: dg.AssetsDefinition) -> None:
        with dg.DagsterInstance.get() as instance:
            dg.materialize(assets, instance=instance, raise_on_error=False)

    run(dataset, features)
    assert states(doctor.failed, project) == [("failed", "warning")]
    said = detail(doctor.failed, project)
    assert re.fullmatch(r"cats/features \(20\d\d-.*\): ValueError: no room for \[features\]", said)
    broken = False
    run(dataset)
    assert states(doctor.failed, project) == [("failed", "warning")]
    run(features)
    assert states(doctor.failed, project) == [("failed", "ok")]
    with suppress(KeyboardInterrupt):
        run(others)  # stopped by a person
    assert states(doctor.failed, project) == [("failed", "ok")]


def test_the_store_and_its_disk(project: Project, monkeypatch) -> None:
    assert states(doctor.store_writable, project) == [("store", "ok")]
    project.store.build("pack", {}, {}, "1", lambda folder: (folder / "x").write_bytes(bytes(5000)) and {})
    monkeypatch.setattr("ssl_pipeline.disk.LEAST", 0)
    for free, state in ((1_000, "broken"), (20_000, "ok")):
        monkeypatch.setattr("ssl_pipeline.disk.free", lambda path, free=free: free)
        assert states(doctor.disk_space, project) == [("disk space", state)]
    project.store.build(
        "pretrained_encoder", {}, {}, "1", lambda folder: (folder / "x").write_bytes(bytes(9000)) and {}
    )
    assert states(doctor.disk_space, project) == [("disk space", "warning")]
    partial = project.store.root / "features" / ("a" * 16 + ".partial")
    partial.mkdir(parents=True)
    assert states(doctor.leftovers, project) == [("leftovers", "ok")]
    os.utime(partial, (0, 0))
    assert states(doctor.leftovers, project) == [("leftovers", "warning")]
    if Path("/sys/kernel").is_dir():
        monkeypatch.setenv("SSL_PIPELINE_STORE", "/sys/kernel/store")
        assert states(doctor.store_writable, Project(project.root)) == [("store", "broken")]


def test_git_and_dvc(project: Project, tmp_path_factory) -> None:
    assert states(doctor.git, project) == [("git", "warning")]
    assert states(doctor.dvc_repository, project) == [("dvc", "ok")]
    subprocess.run(["git", "init", "-q", str(project.root)], check=True)
    assert states(doctor.git, project) == [("git", "ok")]
    config, remote = project.root / ".dvc" / "config", tmp_path_factory.mktemp("remote")
    config.parent.mkdir()
    config.write_text("[core]\n    analytics = false\n")
    assert states(doctor.dvc_repository, project) == [("dvc", "ok"), ("dvc remote", "ok")]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        for url, state in ((str(remote), "ok"), ("/no/such/disk/at/all", "broken")):
            config.write_text(f"[core]\n    remote = there\n['remote \"there\"']\n    url = {url}\n")
            assert states(doctor.dvc_repository, project)[1] == ("dvc remote", state)
        config.write_text(
            "[core]\n    remote = there\n['remote \"there\"']\n    url = s3://bucket/folder\n"
            f"    endpointurl = http://127.0.0.1:{closed.getsockname()[1]}\n"
        )
        started = time.monotonic()
        assert states(doctor.dvc_repository, project)[1] == ("dvc remote", "broken")
        assert time.monotonic() - started < 2 * doctor.PATIENCE_SECONDS
    config.write_text("[core\n")
    assert states(doctor.dvc_repository, project)[0][1] == "broken"


def test_pins_beside_the_store(project: Project) -> None:
    digest, store = "0" * 32 + ".dir", project.store
    store.set_current("shapes", store.build("dataset", {}, {}, "1", lambda folder: {"digest": digest}))
    assert states(doctor.data_pins, project) == [("data.dvc", "warning")]
    (project.root / "data.dvc").write_text(f"outs:\n- md5: {digest}\n  path: data/shapes\n")
    assert states(doctor.data_pins, project) == [("data.dvc", "ok")]
    (project.root / "data.dvc").write_text("outs: [")
    assert states(doctor.data_pins, project) == [("data pins", "broken")]


def test_mlflow_in_a_file(project: Project) -> None:
    assert states(doctor.mlflow, project) == [("mlflow", "ok")] and not project.store.root.exists()
    tracking.Tracker(project.tracking_uri, project.artifacts).run("e", "n", "k")
    assert states(doctor.mlflow, project) == [("mlflow", "ok"), ("mlflow schema", "ok")]
    file = project.store.root / "mlflow" / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = '0123456789ab'")
    assert states(doctor.mlflow, project)[1] == ("mlflow schema", "broken")
    assert "0123456789ab" in detail(doctor.mlflow, project)
    file.write_bytes(b"no database" * 1000)
    assert states(doctor.mlflow, project) == [("mlflow", "broken")]


def test_mlflow_at_an_address(project: Project, monkeypatch) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(b"3.17.2")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{server.server_port}")
    assert states(doctor.mlflow, project) == [("mlflow", "ok")]
    assert "3.17.2" in detail(doctor.mlflow, project) and "secret" not in detail(doctor.mlflow, project)
    server.shutdown()
    server.server_close()
    assert states(doctor.mlflow, project) == [("mlflow", "broken")]


def test_ports_compiler_and_a_check_that_hangs(project: Project, monkeypatch) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        monkeypatch.setattr(doctor, "PORTS", {used.getsockname()[1]: "--port"})
        assert [state for _, state in states(doctor.ports, project)] == ["warning"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert states(doctor.compiler, project) == [("compiler", "warning")]
    with pytest.raises(TimeoutError):
        doctor.within(0.1, lambda: time.sleep(5))


@pytest.mark.slow
def test_the_command(project: Project) -> None:
    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ssl_pipeline.cli", "doctor", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = cli("--json")
    report = json.loads(done.stdout)
    assert report["healthy"] is (done.returncode == 0) and len(report["checks"]) >= len(doctor.CHECKS)
    (project.root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml").write_text("type: [")
    done = cli()
    assert done.returncode == 1 and "broken" in done.stdout and "Traceback" not in done.stdout + done.stderr
