"""Dagster's records in a PostgreSQL that several share: the same chain, turns over machines, nothing secret anywhere."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from ssl_pipeline import database
from ssl_pipeline.orchestration.instance import MACHINE, ProjectInstance, instance, pool
from ssl_pipeline.orchestration.reaper import reap
from ssl_pipeline.orchestration.serve import stores
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from tests.shared.conftest import SECRET, Postgres


@pytest.mark.parametrize(
    "value",
    [
        "mysql://a:b@host/db",
        "postgresql://anna:p@ss@host/db",
        "postgresql://anna:p/ss@host/db",
        "postgresql://",
        "words",
    ],
)
def test_what_is_no_url_of_postgresql_is_refused_without_being_repeated(monkeypatch, value) -> None:
    monkeypatch.setenv(database.VARIABLE, value)
    with pytest.raises(PipelineError, match=r"SSL_PIPELINE_DATABASE_URL: must look like postgresql://") as refused:
        database.url()
    assert "ss@host" not in str(refused.value) and "a:b" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("http://anna:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://anna:p@ss@host/db", "postgresql://host/db"),
        ("postgresql://anna:p/ss@host/db", "postgresql://host/db"),
        ("sqlite:////home/anna@work/mlflow.db", "sqlite:////home/anna@work/mlflow.db"),
        ("http://host:5000/models/cats@champion", "http://host:5000/models/cats@champion"),
        ("https://a:b@h/api failed for models:/cats@champion", "https://h/api failed for models:/cats@champion"),
    ],
)  # fmt: skip
def test_a_place_is_told_without_its_password(uri: str, place: str) -> None:
    assert database.without_password(uri) == place


def test_without_the_variable_everything_stays_in_the_store(root: Path, monkeypatch) -> None:
    monkeypatch.delenv(database.VARIABLE, raising=False)
    assert pool("gpu") == "gpu"
    assert ProjectInstance.config_defaults(str(root))["storage"].class_name == "DagsterSqliteStorage"
    with database.turn("anything"):
        pass


@pytest.fixture
def shared(root: Path, postgres: Postgres, monkeypatch) -> str:
    """A project on a database of its own."""
    name = f"dagster_{time.time_ns()}"
    monkeypatch.setenv(database.VARIABLE, postgres.create(name))
    return name


@pytest.mark.slow
def test_a_refusal_is_one_line_with_a_cure_and_without_the_password(
    root: Path, postgres: Postgres, monkeypatch
) -> None:
    monkeypatch.setenv(database.VARIABLE, postgres.url("postgres", password=f"{SECRET}-wrong"))
    refusal = "password authentication failed.*correct SSL_PIPELINE_DATABASE_URL"
    with pytest.raises(PipelineError, match=refusal) as refused, instance(Project.find()):
        pass
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)
    monkeypatch.setenv(database.VARIABLE, f"postgresql://admin:{SECRET}@127.0.0.1:1/x")
    refusal = "Connection refused.*start it or correct"
    with pytest.raises(PipelineError, match=refusal) as refused, instance(Project.find()):
        pass
    assert SECRET not in str(refused.value)


@pytest.mark.slow
def test_dagster_hands_on_the_variables_name_only(root: Path, shared: str, postgres: Postgres) -> None:
    with instance(Project.find()) as opened:
        assert type(opened.run_storage).__name__ == "PostgresRunStorage"
        assert SECRET not in str(opened.get_ref()) and "SharedStorage" in str(opened.get_ref())
    assert not list(root.rglob("*.db"))


@pytest.mark.slow
def test_several_processes_create_the_tables_at_once(root: Path, shared: str) -> None:
    script = "from ssl_pipeline.orchestration.instance import *\nwith instance(Project.find()) as i: print(len(i.get_runs()))"
    children = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [child.communicate(timeout=120)[0].strip() for child in children] == ["0"] * 4


@pytest.mark.slow
def test_a_turn_is_kept_among_machines_and_ends_with_its_process(root: Path, shared: str) -> None:
    """Two folders stand for two machines: no lock file is common to them."""
    script = "import time\nfrom ssl_pipeline import database\nwith database.turn('x'): print('mine', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "mine\n"
    waiting = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=5)
    child.kill()
    assert waiting.stdout and waiting.stdout.readline() == "mine\n"
    waiting.kill()
    with database.turn("x"):
        pass


@pytest.mark.slow
def test_each_machine_reaps_its_own_dead_runs_only(root: Path, shared: str) -> None:
    script = (
        "import dagster as dg, os, sys\n"
        "from ssl_pipeline.orchestration.instance import *\n"
        "@dg.asset\n"
        "def dies(): os._exit(9)\n"
        "with instance(Project.find()) as i: dg.materialize([dies], instance=i, tags={MACHINE: sys.argv[1]})\n"
    )
    for name in ("elsewhere", database.machine()):
        subprocess.run([sys.executable, "-c", script, name], stderr=subprocess.DEVNULL, check=False)
    with instance(Project.find()) as opened:
        assert {run.status for run in opened.get_runs()} == {dg.DagsterRunStatus.STARTED}
        (reaped,) = reap(opened)
        found = opened.get_run_by_id(reaped)
        assert found and found.tags[MACHINE] == database.machine()
        (other,) = [run for run in opened.get_runs() if run.run_id != reaped]
        assert other.status == dg.DagsterRunStatus.STARTED


def test_up_serves_mlflow_from_variables(tmp_path: Path, monkeypatch) -> None:
    """None of it stands in a command line."""
    for name in (
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_ARTIFACTS_DESTINATION",
        "MLFLOW_TRACKING_URI",
        "SSL_PIPELINE_STORE",
    ):
        monkeypatch.delenv(name, raising=False)
    alone = stores(Project(tmp_path))
    assert set(alone) == {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"}
    assert alone["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:///")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://a:b@host/mlflow")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://team/mlflow")
    assert stores(Project(tmp_path)) == {
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://a:b@host/mlflow",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/mlflow",
    }
