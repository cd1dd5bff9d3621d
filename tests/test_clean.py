"""What may go and what must stay, against an independent reading of the graph, real locks, a real MLflow and the real chain."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_pipeline import clean, tracking
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.store import Stage, Store

orchestration = runpy.run_path(str(Path(__file__).parent / "orchestration" / "conftest.py"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return Project(tmp_path)


def make(store: Store, name: str, inputs: dict[str, str] | None = None, summary: dict | None = None, salt=0) -> Stage:
    def write(folder: Path) -> dict:
        (folder / "file").write_bytes(b"x" * 1000)
        return summary or {}

    return store.build(name, {"salt": salt}, inputs or {}, "1", write)


def swept(project: Project, days: float = 0) -> set[str]:
    """The names of what went."""
    return {one.path.name for one in clean.remove(project.store, clean.leftovers(project, days))}


def there(store: Store) -> set[str]:
    return {file.parent.name for file in store.root.glob("*/*/stage.json")}


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_exactly_what_leads_to_a_current_stage_stays(data, tmp_path_factory) -> None:
    project = Project(tmp_path_factory.mktemp("project"))
    store, graph, stages = project.store, networkx.DiGraph(), []
    for number in range(data.draw(st.integers(1, 9))):
        before = (
            data.draw(st.lists(st.sampled_from(stages), max_size=3, unique_by=lambda stage: stage.key))
            if stages
            else []
        )
        way = data.draw(st.sampled_from(["inputs", "made_from", "evaluations"]))
        keys = {str(i): stage.key for i, stage in enumerate(before)}
        inputs = {"all": ",".join(keys.values()) or "none"} if way == "evaluations" else keys if way == "inputs" else {}
        stages.append(make(store, f"stage{number}", inputs, {"made_from": keys} if way == "made_from" else {}))
        graph.add_node(stages[-1].key)
        graph.add_edges_from((stages[-1].key, stage.key) for stage in before)
    current = data.draw(st.lists(st.sampled_from(stages), max_size=2, unique_by=lambda stage: stage.key))
    for stage in current:
        store.set_current("someone", stage)
    expected = {stage.key for stage in current}.union(*(networkx.descendants(graph, stage.key) for stage in current))
    swept(project)
    assert there(store) == expected
    assert swept(project) <= {"clean.lock"}


def test_a_dataset_stays_by_its_digest_and_a_pack_by_its_labels(project: Project) -> None:
    store, digest = project.store, "0" * 32 + ".dir"
    dataset, other = (make(store, "dataset", {}, {"digest": d}, d) for d in (digest, "1" * 32 + ".dir"))
    pack = make(store, "pack", {"dataset": digest})
    labels = make(store, "pretext_labels", {}, {"pack": pack.key, "made_from": {"dataset": digest}})
    store.set_current("cats", labels)
    gone = swept(project)
    assert there(store) == {dataset.key, pack.key, labels.key} and other.key in gone
    assert make(store, "dataset", {}, {"digest": "1" * 32 + ".dir"}, "1" * 32 + ".dir").reused is False


def test_what_was_used_lately_stays_and_reuse_is_use(project: Project) -> None:
    old, reused = make(project.store, "features", salt=1), make(project.store, "features", salt=2)
    for stage in (old, reused):
        os.utime(stage.path / "stage.json", (0, time.time() - 10 * clean.DAY))
    assert {one.path.name for one in clean.leftovers(project, 7)} == {old.key, reused.key}
    make(project.store, "features", salt=2)
    (found,) = clean.leftovers(project, 7)
    assert found.path.name == old.key and found.days == pytest.approx(10, abs=0.01) and found.bytes > 1000
    assert there(project.store) == {old.key, reused.key}  # telling deletes nothing


def hold(lock: Path) -> subprocess.Popen[str]:
    """Another process with the lock."""
    script = (
        "import sys, time, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    lock.parent.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline()
    return child


@pytest.mark.parametrize("lock", ["locks/pretrained_encoder-{}.lock", "pretrained_encoder/{}.partial.writer"])
def test_what_somebody_works_on_stays(lock: str, project: Project) -> None:
    """A training, and the child of a killed one that still writes its checkpoint."""
    key, store = "a" * 16, project.store
    partial = store.root / "pretrained_encoder" / f"{key}.partial"
    (partial / "checkpoints").mkdir(parents=True)
    (partial / "checkpoints" / "step-1.pt").write_bytes(b"x" * 5000)
    idle = make(store, "features")
    child = hold(store.root / lock.format(key))
    try:
        gone = swept(project)
        assert partial.exists() and (store.root / lock.format(key)).exists()
        assert (idle.key in gone) == ("writer" in lock)  # what a stage at work reads is not known
    finally:
        child.kill()
        child.wait()
    assert (
        partial.name in swept(project) and (store.root / lock.format(key)).exists()
    )  # a lock is empty, and may be waited for
    assert not partial.exists() and not list((store.root / "trash").iterdir())


def test_what_became_current_since_it_was_listed_stays(project: Project) -> None:
    stage = make(project.store, "features")
    found = clean.leftovers(project, 0)
    project.store.set_current("cats", stage)
    list(clean.remove(project.store, found))
    assert there(project.store) == {stage.key}


def test_a_killed_clean_leaves_nothing_half(project: Project) -> None:
    """Killed in the middle of deleting: no folder under its name, and the next clean finishes."""
    stage = make(project.store, "features")
    script = (
        "import os, shutil, signal, sys; from pathlib import Path\n"
        "from ssl_pipeline import clean; from ssl_pipeline.project import Project\n"
        "def half(folder):\n"
        "    next(folder.rglob('file')).unlink(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.rmtree = half\n"
        "project = Project(Path(sys.argv[1]))\n"
        "list(clean.remove(project.store, clean.leftovers(project, 0)))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(project.root)]).returncode == -signal.SIGKILL
    assert not stage.path.exists() and not list(project.store.finished("features"))
    assert [one.why for one in clean.leftovers(project, 7)] == ["left by a clean that was killed"]
    swept(project, 7)
    assert not list((project.store.root / "trash").iterdir())


def test_an_unreadable_record_stops_it(project: Project) -> None:
    stage = make(project.store, "features")
    (stage.path / "stage.json").write_text("{")
    with pytest.raises(PipelineError, match=r"stage\.json: cannot be read .*delete its folder"):
        clean.leftovers(project, 0)


def test_an_open_log_stays(project: Project) -> None:
    folder = project.store.root / "logs"
    folder.mkdir(parents=True)
    (folder / "mlflow.log").write_text("ended")
    with open(folder / "dagster.log", "w"):
        assert [one.path.name for one in clean.leftovers(project, 0)] == ["mlflow.log"]


def test_what_a_version_in_mlflow_was_made_from_stays(project: Project) -> None:
    """Also where the store's own note of the registration is lost; and without MLflow's word nothing finished goes."""
    store = project.store
    encoder = make(store, "pretrained_encoder")
    features = make(store, "features", {"encoder": encoder.key})
    evaluation = make(store, "classification", {}, {"made_from": {"features": features.key}})
    other = make(store, "classification", salt=1)
    tracker = tracking.Tracker(project.tracking_uri, project.artifacts)
    with tracker.connected() as client:
        client.create_registered_model("cats")
        client.create_model_version(
            "cats", str(encoder.path), tags={"evaluation": evaluation.key, "content_key": "f" * 16}
        )
    assert other.key in swept(project)
    assert there(store) == {encoder.key, features.key, evaluation.key}
    (store.root / "mlflow" / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(PipelineError, match="MLflow at sqlite"):
        clean.leftovers(project, 0)


@pytest.mark.slow
def test_the_chain_reuses_everything_current_afterwards(tmp_path: Path) -> None:
    """Two recipes; one is changed and run again: its first results go, and nothing else is computed again."""
    folder, hidden = tmp_path / "project", ("SSL_PIPELINE_STORE", "MLFLOW_TRACKING_URI")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"DAGSTER_HOME": str(folder)}
    orchestration["draw_shapes"](folder / "images")
    shutil.copy(Path(__file__).parents[1] / "dagster.yaml", folder)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    defs = folder / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    defs.parent.mkdir(parents=True)

    def cli(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ssl_pipeline.cli", *arguments],
            cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stages(said: str) -> dict[str, str]:
        lines = [line.split(": ") for line in said.splitlines() if " in " in line and line.startswith("shapes")]
        return {line[0]: line[1].split(" ")[0] for line in lines if "/" in line[0]}

    short = orchestration["DEFS"].replace("epochs: 12", "epochs: 2")
    defs.write_text(short.replace("shots: [5, all], k: 5,", "shots: [5], k: 5,"))
    assert set(stages(cli("run", "shapes_simclr", "--to", "classification")).values()) == {"computed"}
    defs.write_text(defs.read_text().replace("epochs: 2", "epochs: 3"))
    again = stages(cli("run", "shapes_simclr"))
    assert again["shapes/dataset"] == "reused" and again["shapes_simclr/pretrained_encoder"] == "computed"
    cached = sorted((folder / ".dvc" / "cache").rglob("*"))
    before = there(Store(folder / "store"))
    assert "may go" in cli("clean", "--older-than", "0") and there(Store(folder / "store")) == before
    told = cli("clean", "--older-than", "0", "--yes")
    left = there(Store(folder / "store"))
    lost = before - left
    assert len(lost) == 3, told  # the first encoder, its features, their evaluation
    assert set(stages(cli("run", "shapes_simclr")).values()) == {"reused"}
    assert sorted((folder / ".dvc" / "cache").rglob("*")) == cached
    defs.write_text(defs.read_text().replace("epochs: 3", "epochs: 2"))
    assert stages(cli("run", "shapes_simclr", "--to", "features"))["shapes_simclr/features"] == "computed"
