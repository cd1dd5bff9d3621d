"""The real chain through Dagster, on a tiny project: in process, recorded in the instance, gates that hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ssl_pipeline.orchestration import project_definitions
from ssl_pipeline.orchestration.defs_folder import choose, load_all
from ssl_pipeline.orchestration.reaper import reap
from ssl_pipeline.orchestration.run import run
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project


def materialize(project: Project, to: str, made: Callable[[str], object] = lambda stage: None) -> list[str]:
    datasets, recipes = load_all(project)
    said: list[str] = []
    run(project, datasets, recipes, choose(recipes, ["shapes_simclr"]), to, said.append, made=made)
    return said


def test_run_is_recorded_and_reused(root: Path) -> None:
    project = Project.find()
    first = materialize(project, "pretext_labels")
    assert any(line.startswith("shapes/dataset: computed in") for line in first)
    assert any("nothing_quarantined" in line and line.startswith("warning:") for line in first)
    assert any(
        line.startswith("shapes_simclr/pretext_labels: reused in") for line in materialize(project, "pretext_labels")
    )
    stage = project.store.current("shapes_simclr", "pretext_labels")
    assert stage
    with dg.DagsterInstance.get() as instance:
        assert [r.status for r in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2
        event = instance.get_latest_materialization_event(dg.AssetKey(["shapes_simclr", "pretext_labels"]))
        assert event and event.asset_materialization
        metadata = event.asset_materialization.metadata
        assert event.asset_materialization.tags and stage.key in event.asset_materialization.tags.values()
    assert metadata["made"].value == "reused" and "data:image/png" in str(metadata["picture: sheet"].value)
    assert {p.name for p in (root / "store" / "dagster").iterdir()} >= {"history", "schedules"}
    assert not {"history", "schedules", "storage"} & {p.name for p in root.iterdir()}


def test_checks_without_running_anything_again(root: Path) -> None:
    materialize(Project.find(), "pretext_labels")
    (root / "data.dvc").write_text((root / "data.dvc").read_text().replace("md5: ", "md5: 0", 1)[:-1] + "\n")
    datasets, recipes = load_all(Project.find())
    everything = project_definitions.definitions(datasets, recipes)
    checks = dg.AssetSelection.checks_for_assets(["shapes_simclr", "pretext_labels"], ["shapes", "dataset"])
    job = dg.define_asset_job("only_checks", selection=checks)
    done = (
        dg.Definitions.merge(everything, dg.Definitions(jobs=[job]))
        .resolve_job_def("only_checks")
        .execute_in_process(raise_on_error=False)
    )
    passed = {e.check_name: (e.passed, e.severity.value) for e in done.get_asset_check_evaluations()}
    assert passed == {
        "nothing_quarantined": (False, "WARN"),
        "same_as_committed": (True, "WARN"),
        "data_pinned": (False, "ERROR"),
        "labels_balanced": (True, "WARN"),
    }


def test_missing_source_is_one_line(root: Path) -> None:
    made = list[str]()
    materialize(Project.find(), "pretext_labels", made.append)
    assert made == ["shapes/dataset", "shapes_simclr/pretext_labels"]
    (root / "images").rename(root / "moved")
    made.clear()
    with pytest.raises(PipelineError, match="dataset 'shapes': ") as refused:
        materialize(Project.find(), "pretext_labels", made.append)
    assert "\n" not in str(refused.value) and not made


def test_killed_run_gives_its_turn_back(root: Path) -> None:
    script = (
        "import dagster as dg, time\n"
        "@dg.asset(pool='gpu')\n"
        "def forever(): print('started', flush=True); time.sleep(600)\n"
        "dg.materialize([forever], instance=dg.DagsterInstance.get())\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout and "started" in child.stdout.readline()
    with dg.DagsterInstance.get() as instance:
        assert reap(instance) == []  # it is alive
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        (run_id,) = reap(instance)
        found = instance.get_run_by_id(run_id)
        assert found and found.status == dg.DagsterRunStatus.FAILURE
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_whole_chain_and_interruption(root: Path, processes: int) -> None:
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    recipes.write_text(recipes.read_text().replace("device: cpu", f"device: cpu, processes: {processes}"))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "ssl_pipeline.cli", "run", "shapes_simclr"]
    checkout = Path(__file__).parents[2]
    child = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stderr
    for line in child.stdout:
        if line.startswith("shapes_simclr/pretrained_encoder: started"):
            break
    while not list(root.glob("store/pretrained_encoder/*.partial/metrics.jsonl")):
        assert child.poll() is None
        time.sleep(0.05)
    child.terminate()
    assert (child.wait(120), child.stderr.read().splitlines()[-1:]) == (130, ["stopped: run again to go on from here"])
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if f"ssl_pipeline.pretrain {root}" in command]
    with dg.DagsterInstance.get() as instance:
        assert {r.status for r in instance.get_runs()} <= {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    said = materialize(Project.find(), "registered_model")
    assert any("model 'shapes_simclr' version 1" in line for line in said)
