"""A night in which everything is killed once, and nobody is there: in the morning all is as if nothing had happened."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import dagster as dg
import psutil
import pytest
from safetensors.torch import load_file

from ssl_pipeline import tracking
from ssl_pipeline.orchestration.defs_folder import load_all
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker
from tests.up import Up, training, up

EPOCHS = 200


def stages_of_an_undisturbed_run(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same recipe's encoder in a store of its own, trained in one go."""
    from ssl_pipeline import chain

    monkeypatch.setenv("SSL_PIPELINE_STORE", str(folder))
    datasets, recipes = load_all(Project(root))
    chain.dataset(Project(root), datasets[0])
    chain.pretext_labels(Project(root), recipes[0])
    found = chain.pretrained_encoder(Project(root), recipes[0]).path
    monkeypatch.delenv("SSL_PIPELINE_STORE")
    return found


def train_for_long(root: Path) -> None:
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    often = f"epochs: {EPOCHS}, checkpoint_seconds: 0"
    recipes.write_text(recipes.read_text().replace("epochs: 12", often))


def rows(root: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in root.glob("store/pretrained_encoder/*.partial/metrics.jsonl"))


def wait_for_more_rows(root: Path, served: Up, killed: Iterable[int] = ()) -> None:
    """Until training has gone on in another process than those that were killed: whose parent was, they go on for a moment."""
    until, before = time.monotonic() + 240, None
    while before is None or rows(root) <= before + 3:
        assert served.process.poll() is None and time.monotonic() < until, served.said
        assert not list(root.glob("store/pretrained_encoder/*/stage.json")), "trained before the next kill: more epochs"
        if not set(training(root)) - set(killed):
            before = None
        elif before is None:
            before = rows(root)
        time.sleep(0.05)


def worker(instance: dg.DagsterInstance) -> psutil.Process:
    """The process of the run that goes on."""
    (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    pids = [
        int(str(entry.dagster_event.event_specific_data.metadata["pid"].value))
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        if "pid" in getattr(entry.dagster_event.event_specific_data, "metadata", {})
    ]
    return psutil.Process(pids[-1])


@pytest.mark.slow
def test_everything_is_killed_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that trains, the run's, Dagster's daemon, its web server, MLflow's: each in the middle of one training."""
    train_for_long(root)
    began = time.monotonic()

    def note(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}, {rows(root)} rows", flush=True)

    with dg.DagsterInstance.get() as instance, up() as served:
        note("up")
        served.launch("shapes_simclr")
        wait_for_more_rows(root, served)
        note("training")
        psutil.Process((trainer := training(root))[0]).kill()
        wait_for_more_rows(root, served, trainer)
        note("went on after the training process was killed")
        assert len(instance.get_runs()) == len(instance.get_runs(dg.RunsFilter(job_name="shapes_simclr"))) == 1
        trainer = training(root)
        worker(instance).kill()
        wait_for_more_rows(root, served, trainer)
        note("went on after the run's process was killed")
        servers = {"dagster": ["dagster._daemon"]}, {"dagster": ["dagster_webserver"], "mlflow": ["mlflow server"]}
        for dead in servers:
            heard, trainer = len(served.said), training(root)
            for words in dead.values():
                served.child("-m", *words).kill()
            for name in dead:
                served.wait_for(f"{name} stopped by itself, and is started again", f"{name}: http", after=heard)
            note(f"{dead} answers again")
            wait_for_more_rows(root, served, trainer)
            note("went on")
        until = time.monotonic() + 240
        while not (done := instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))):
            assert served.process.poll() is None and time.monotonic() < until, served.said
            time.sleep(1)
        note("done")
        print(*served.said, sep="\n")
        everything = instance.get_runs(dg.RunsFilter(job_name="shapes_simclr"))
        assert len(done) == 1 and {r.status for r in everything} == {
            dg.DagsterRunStatus.SUCCESS,
            dg.DagsterRunStatus.FAILURE,
        }
        assert len(everything) == 4  # the first, and one after each of: its own death, the daemon's, the web server's
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        assert not instance.event_log_storage.get_concurrency_run_ids()
    assert not training(root)

    (folder,) = [path for path in root.glob("store/pretrained_encoder/*") if path.is_dir()]
    curve = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in curve if "loss" in row]
    assert sorted(set(steps)) == list(range(10, 5 * EPOCHS + 1, 10))
    project = Project(root)
    tracker = open_tracker(project)
    summary = json.loads((folder / "stage.json").read_text())["summary"]
    with tracker.connected() as client:
        logged = Counter(m.step for m in client.get_metric_history(summary["mlflow_run_id"], "loss"))
    assert set(logged) == set(steps) and set(logged.values()) == {1}
    assert [v.version for v in tracking.versions(tracker, "shapes_simclr")] == [1]
    note("looked at")
    undisturbed = stages_of_an_undisturbed_run(tmp_path / "other", root, monkeypatch)
    note("trained undisturbed")
    ours, theirs = (load_file(one / "encoder.safetensors") for one in (folder, undisturbed))
    assert all((ours[name] == theirs[name]).all() for name in theirs) and ours.keys() == theirs.keys()


@pytest.mark.slow
def test_up_itself_is_killed(root: Path) -> None:
    """Its servers outlive it; the next one stops them, serves on their ports, and the run that went on in them goes on."""
    train_for_long(root)
    served = killed = Up()
    try:
        killed.wait_for("Ctrl-C stops both")
        killed.launch("shapes_simclr")
        wait_for_more_rows(root, killed)
        trainer = training(root)
        killed.process.kill()
        killed.process.wait()
        served = Up(killed.port, killed.mlflow_port)
        served.wait_for("dagster was left behind", "mlflow was left behind", "run ", "Ctrl-C stops both")
        wait_for_more_rows(root, served, trainer)
        with dg.DagsterInstance.get() as instance:
            status = [run.status for run in instance.get_runs()]
            assert status == [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE]
    finally:
        served.stop()
    assert not training(root)
