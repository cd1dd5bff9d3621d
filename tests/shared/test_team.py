"""A team: one PostgreSQL, one MLflow with accounts, one S3, and two checkouts with stores of their own at work at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from ssl_pipeline import database, versioning
from ssl_pipeline.orchestration.instance import instance
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.tracking import Tracker, champion, versions
from ssl_pipeline.tracking import history as history_of
from tests.orchestration.conftest import ROOT
from tests.shared.conftest import SECRET, Postgres

pytestmark = pytest.mark.slow

TOGETHER = """\
---
type: ssl_pipeline.Pretraining
attributes:
  name: shapes_together
  dataset: shapes
  encoder: {backbone: resnet18, image_size: 16, options: {channels: [8, 8, 16, 16]}}
  pretext: {task: simclr, views: {min_scale: 0.9, flip: false, color: 0.0, blur: false}}
  pretrain: {epochs: 12, batch_size: 16, learning_rate: 0.003, device: cpu, seed: 0}
  evaluations: [{kind: classification, shots: [all], k: 5, supervised_steps: 0}]
  promote: null
"""


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True, capture_output=True
    )


@pytest.fixture
def remote(root: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, its data versions in S3 by `dvc remote add -d`, committed."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "dvc-site"))
    dvc(root, "init", "-q")
    dvc(root, "config", "core.autostage", "true")
    dvc(root, "remote", "add", "-q", "-d", "team", "s3://team/data")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")
    return root


def occurrences(folder: Path) -> list[str]:
    """Files below `folder` in which a password stands."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_versions_travel_by_s3_to_a_fresh_machine(remote: Path, tmp_path_factory) -> None:
    tree = tmp_path_factory.mktemp("data") / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("one")
    versioning.commit(remote, "letters", tree)
    git(remote, "add", "-A")
    git(remote, "commit", "-qm", "data")
    fresh = tmp_path_factory.mktemp("fresh") / "clone"
    git(remote, "clone", "-q", str(remote), str(fresh))
    digest = versioning.pinned(fresh, "letters")
    assert digest == versioning.digest(tree)
    versioning.restore(fresh, "letters", digest, fresh / "restored")
    assert (fresh / "restored" / "a.txt").read_text() == "one"
    dvc(fresh, "pull", "-q")
    assert (fresh / "data" / "letters" / "a.txt").read_text() == "one"
    assert not occurrences(remote) and not occurrences(fresh)


def test_a_lost_remote_loses_nothing_and_the_next_run_pushes(
    remote: Path, s3: str, monkeypatch, tmp_path_factory
) -> None:
    import boto3

    tree = tmp_path_factory.mktemp("data") / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("one")
    digest = versioning.digest(tree)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(
        PipelineError, match=rf"{digest} is committed here, but pushing .*'team' failed.*when the remote is"
    ) as lost:
        versioning.commit(remote, "letters", tree)
    assert time.monotonic() - began < 60 and "\n" not in str(lost.value) and SECRET not in str(lost.value)
    assert versioning.pinned(remote, "letters") == digest and (remote / "data/letters/a.txt").read_text() == "one"
    versioning.restore(remote, "letters", digest, remote / "restored")  # the cache has it
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    versioning.commit(remote, "letters", tree)
    held = [one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket="team", Prefix="data/")["Contents"]]
    assert any(key.endswith(digest[2:]) for key in held) and len(held) == 2

    shutil.rmtree(remote / ".dvc" / "cache")
    dvc(remote, "remote", "add", "-q", "-f", "-d", "team", "s3://no-such-bucket/data")
    (tree / "b.txt").write_text("two")
    with pytest.raises(PipelineError, match="is committed here, but pushing it to the DVC remote 'team' failed"):
        versioning.commit(remote, "letters", tree)
    with pytest.raises(PipelineError, match="version " + digest):
        versioning.restore(remote, "letters", digest, remote / "again")


def test_a_wrong_password_of_mlflow_is_one_line(mlflow: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{SECRET}-wrong")
    with pytest.raises(
        PipelineError, match="401.*set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    ) as refused:
        Tracker(mlflow, tmp_path / "artifacts").run("d", "r", "k")
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)
    inside = Tracker(mlflow.replace("//", f"//ben:{SECRET}-ben@"), tmp_path / "artifacts")
    assert inside.uri == mlflow and inside.run("d", "r", "k")


@pytest.mark.timeout(1800)
def test_two_users_at_once(remote: Path, postgres: Postgres, mlflow: str, tmp_path_factory, monkeypatch) -> None:
    """Both run the same recipe, and one that they have with another seed each; a third has a wrong password."""
    name = f"dagster_{time.time_ns()}"
    monkeypatch.setenv(database.VARIABLE, postgres.create(name))
    defs = remote / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    defs.write_text(defs.read_text() + TOGETHER + TOGETHER.replace("shapes_together", "shapes_seeds"))
    git(remote, "commit", "-qam", "recipes")
    everyone = tmp_path_factory.mktemp("everyone")
    children, homes = {}, {}
    for seed, user in enumerate(["anna", "ben", "carl"], 1):
        home = homes[user] = everyone / user
        git(remote, "clone", "-q", str(remote), str(home))
        own = home / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
        head, tail = own.read_text().split("name: shapes_seeds")
        own.write_text(head + "name: shapes_seeds" + tail.replace("seed: 0", f"seed: {seed}"))
        environment = os.environ | {
            "DAGSTER_HOME": str(home), "MLFLOW_TRACKING_URI": mlflow, "DVC_SITE_CACHE_DIR": str(everyone / f"dvc-{user}"),
            "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": f"{SECRET}-{user}",
        }  # fmt: skip
        if user == "ben":
            environment["MLFLOW_TRACKING_URI"] = mlflow.replace("//", f"//ben:{SECRET}-ben@")
        command = [sys.executable, "-m", "ssl_pipeline.cli", "run", "shapes_together", "shapes_seeds", "--json"]
        if user == "carl":
            command.remove("shapes_seeds")
        with open(everyone / f"{user}.err", "w") as err, open(everyone / f"{user}.json", "w") as out:
            children[user] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
    try:
        ended = {user: child.wait(timeout=1500) for user, child in children.items()}
    finally:
        for child in children.values():
            child.terminate()  # which ends its training too
    said = {user: (everyone / f"{user}.err").read_text() for user in ended}
    assert ended == {"anna": 0, "ben": 0, "carl": 1}, said["anna"][-2000:] + said["ben"][-2000:]
    assert "set MLFLOW_TRACKING_USERNAME" in said["carl"].splitlines()[-1]

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{SECRET}-anna")
    tracker = Tracker(mlflow, everyone / "artifacts")
    results = {
        u: {r["recipe"]: r for r in json.loads((everyone / f"{u}.json").read_text())["recipes"]}
        for u in ("anna", "ben")
    }
    assert len({r["dataset"] for user in results.values() for r in user.values()}) == 1, "one version of the data"
    assert [v.version for v in versions(tracker, "shapes_together")] == [1], "one content key, one version"
    seeds = versions(tracker, "shapes_seeds")
    assert [v.version for v in seeds] == [1, 2] and len({v.tags["content_key"] for v in seeds}) == 2
    assert {user["shapes_seeds"]["version"] for user in results.values()} == {1, 2}
    reigning = champion(tracker, "shapes_seeds")
    moves = [m.version for m in history_of(tracker, "shapes_seeds") if m.alias == "champion"]
    assert reigning and moves == [reigning.version], "the first; nobody compared"
    with tracker.connected() as client:
        (experiment,) = [e for e in client.search_experiments() if e.name == "shapes"]
        runs = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name != "leaderboard"]
        assert sorted(run.info.run_name for run in runs) == ["shapes_seeds", "shapes_seeds", "shapes_together"]
        assert {run.info.status for run in runs} == {"FINISHED"} and experiment.artifact_location.startswith(
            "mlflow-artifacts:"
        )
        for run in runs:
            curve = client.get_metric_history(run.info.run_id, "loss")
            assert len({point.step for point in curve}) >= 2 and client.list_artifacts(run.info.run_id, "pictures")
    with instance(Project(homes["anna"])) as opened:
        history = opened.get_runs()
        assert sorted(run.status.value for run in history) == ["FAILURE", "SUCCESS", "SUCCESS"]
        for stage in ("pretrained_encoder", "features", "classification", "registered_model"):
            made = opened.fetch_materializations(dg.AssetKey(["shapes_seeds", stage]), limit=10).records
            assert len(made) == 2, f"{stage} of both"

    places = [remote, everyone, remote.parent / "mlflow"] if (remote.parent / "mlflow").exists() else [remote, everyone]
    assert [found for place in places for found in occurrences(place)] == []
    assert SECRET not in postgres.text(name) and SECRET not in postgres.text("mlflow")
