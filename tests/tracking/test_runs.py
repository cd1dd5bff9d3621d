from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_pipeline import record
from ssl_pipeline.part import Away, PipelineError
from ssl_pipeline.tracking import Tracker
from ssl_pipeline.tracking.runs import legal

DIGEST = "0123456789abcdef0123456789abcdef.dir"


def test_a_key_has_one_run_that_is_opened_again(tracker, new_tracker) -> None:
    first = tracker.run("digits", "simclr", "k1", {"stage": "pretrain"}, {"epochs": 3})
    tracker.end(first, failed=True)
    with tracker.connected() as client:
        assert client.get_run(first).info.status == "FAILED"
    assert new_tracker().run("digits", "simclr", "k1", {"stage": "again"}, {"epochs": 4, "seed": 0}) == first
    with tracker.connected() as client:
        run = client.get_run(first)
        assert run.info.status == "RUNNING" and run.info.run_name == "simclr"
        assert run.data.tags["ssl_pipeline.key"] == "k1" and run.data.tags["stage"] == "again"
        assert run.data.params == {"epochs": "3", "seed": "0"}
    tracker.end(first)
    with tracker.connected() as client:
        assert client.get_run(first).info.status == "FINISHED"
    assert tracker.run("digits", "simclr", "k2") != first
    assert tracker.run("other", "simclr", "k1") != first


def test_artifacts_lie_where_the_project_wants_them(tracker, files) -> None:
    run_id = tracker.run("digits", "simclr", "k1")
    tracker.log_files(run_id, files[:1], "weights")
    tracker.log_files(run_id, files[2:])
    assert (tracker.artifacts / run_id / "artifacts" / "weights" / "encoder.safetensors").is_file()
    assert (tracker.artifacts / run_id / "artifacts" / "model_card.md").is_file()
    assert tracker.url(run_id) == f"#/experiments/1/runs/{run_id}"


def test_many_and_long_parameters_and_tags(tracker) -> None:
    params = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000, "encoder.options[0]": {"a": 1}}
    run_id = tracker.run("digits", "simclr", "k1", {f"t{i}": "y" * 9000 for i in range(3)}, params)
    assert tracker.run("digits", "simclr", "k1", params=params) == run_id
    with tracker.connected() as client:
        data = client.get_run(run_id).data
    assert len(data.params) == 252 and len(data.params["long"]) == 6000
    assert data.params["encoder.options_0_"] == "{'a': 1}" and len(data.tags["t2"]) == 8000


def test_a_curve_logged_again_after_a_resume_keeps_one_point_a_step(tracker) -> None:
    run_id = tracker.run("digits", "simclr", "k1")
    rows = [{"step": s, "loss": 1 / (s + 1), "note": "text", "done": True} for s in range(0, 700)]
    tracker.log_curve(run_id, rows[:400])
    time.sleep(0.01)  # another timestamp: to MLflow the same point at another time is another point
    tracker.log_curve(run_id, [*rows, {"step": 700, "validation/accuracy@1": 0.5, "loss": math.nan}])
    with tracker.connected() as client:
        points = client.get_metric_history(run_id, "loss")
        assert [p.step for p in sorted(points, key=lambda p: p.step)] == list(range(701))
        assert all(p.value == 1 / (p.step + 1) for p in points if p.step < 700)
        assert set(client.get_run(run_id).data.metrics) == {"loss", "validation/accuracy_1"}


def test_metrics_are_logged_once(tracker) -> None:
    run_id = tracker.run("digits", "simclr", "k1")
    for value in (0.5, 0.5, 0.75):
        tracker.log_metrics(run_id, {"classification/linear/accuracy/10": value})
        time.sleep(0.01)
    with tracker.connected() as client:
        history = client.get_metric_history(run_id, "classification/linear/accuracy/10")
        assert [p.value for p in history] == [0.5, 0.75]
        assert client.get_run(run_id).data.metrics["classification/linear/accuracy/10"] == 0.75


@pytest.mark.parametrize(
    ("name", "clean"),
    [("a/b/10", "a/b/10"), ("accuracy@1 (%)", "accuracy_1 ___"), ("/a//b/./c:d", "a/b/c_d"), ("wörter", "wörter")],
)
def test_names_that_mlflow_takes(tracker, name, clean) -> None:
    assert legal(name) == clean
    run_id = tracker.run("digits", "simclr", "k1")
    tracker.log_metrics(run_id, {name: 1.0})
    with tracker.connected() as client:
        assert set(client.get_run(run_id).data.metrics) == {clean}


def test_the_dataset_is_an_input_once_with_its_whole_digest(tracker) -> None:
    run_id = tracker.run("digits", "simclr", "k1")
    for _ in range(2):
        tracker.log_dataset(run_id, "digits", DIGEST, "data/digits")
    with tracker.connected() as client:
        (logged,) = client.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("digits", DIGEST)
    assert json.loads(logged.dataset.source) == {"uri": "data/digits"}


def test_a_deleted_experiment_says_how_it_comes_back(tracker) -> None:
    tracker.run("digits", "simclr", "k1")
    with tracker.connected() as client:
        client.delete_experiment("1")
    with pytest.raises(PipelineError, match="mlflow experiments restore --experiment-id 1"):
        tracker.run("digits", "simclr", "k1")


def test_a_server_that_is_down_is_named_at_once_and_without_its_password(tmp_path) -> None:
    tracker = Tracker("http://me:secret@127.0.0.1:9", tmp_path)
    started = time.monotonic()
    with pytest.raises(Away, match=r"127\.0\.0\.1:9.*MLFLOW_TRACKING_URI") as error:
        tracker.run("digits", "simclr", "k1")
    assert time.monotonic() - started < 30
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_named(tmp_path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database at all, but long enough to have a header" * 10)
    with pytest.raises(PipelineError, match=r"mlflow\.db.*not a database") as error:
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts").run("digits", "simclr", "k1")
    assert not isinstance(error.value, Away)


def test_only_a_server_that_is_away_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(record, "RETRY_SECONDS", 0.01)
    left, said = [Away("down"), Away("still down")], list[str]()

    def ask() -> str:
        if left:
            raise left.pop()
        return "an answer"

    assert record.patiently(ask, said.append) == "an answer"
    assert said[-1].startswith("waiting for MLflow, ") and said[-1].endswith("s at most: down") and len(said) == 2
    left[:] = [PipelineError("no such account")]
    with pytest.raises(PipelineError, match="no such account"):
        record.patiently(ask, said.append)
    left[:] = [Away("down")] * 1000
    with pytest.raises(Away, match="down"):
        record.patiently(ask, said.append, seconds=0.1)


def test_the_environment_stays_as_it_was(tracker, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker.run("digits", "simclr", "k1")
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.slow
def test_two_processes_at_a_new_database_share_one_run(tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; from ssl_pipeline.tracking import Tracker; folder = Path(sys.argv[1]);"
        "tracker = Tracker(f'sqlite:///{folder}/new/mlflow.db', folder / 'new' / 'artifacts');"
        "print(tracker.run('digits', 'simclr', 'k1'))"
    )
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [p.communicate(timeout=300)[0].split() for p in started]
    assert [p.returncode for p in started] == [0, 0]
    assert said[0] == said[1] and len(said[0]) == 1
    runs = sqlite3.connect(tmp_path / "new" / "mlflow.db").execute("select count(*) from runs").fetchone()
    assert runs == (1,)
