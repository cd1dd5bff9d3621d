"""When a recipe is trained again, and the reason that is told."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ssl_pipeline import tracking
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.retraining import Watch, verdict
from ssl_pipeline.store import Stage

OLD, NEW = "a" * 32 + ".dir", "b" * 32 + ".dir"


def recipe(**retrain) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "dataset": "d", "pretext": {"task": "simclr"}, "evaluations": [], "retrain": retrain}
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """100 samples, an encoder trained on them, and a version of the data with 40 more."""
    project = Project(tmp_path)
    dataset(project, OLD, range(100))
    encoder(project, "e1", OLD)
    dataset(project, NEW, range(140))
    return project


def dataset(project: Project, digest: str, ids: range) -> None:
    def write(folder: Path) -> dict:
        (folder / "tree").mkdir()
        pd.DataFrame({"sample_id": [f"{i:03d}" for i in ids]}).to_parquet(folder / "tree" / "train-00000.parquet")
        return {"digest": digest}

    project.store.set_current("d", project.store.build("dataset", {"v": digest}, {}, "1", write))


def encoder(project: Project, name: str, digest: str, **made_from: str) -> Stage:
    return stage(project, "pretrained_encoder", name, made_from={"dataset": digest} | made_from)


def stage(project: Project, kind: str, name: str, owner: str = "r", **summary) -> Stage:
    made = project.store.build(kind, {"name": name}, {}, "1", lambda folder: summary)
    project.store.set_current(owner, made)
    return made


def test_enough_new_samples_are_a_reason_and_too_few_are_not(project: Project) -> None:
    found = verdict(project, recipe(on_new_data={"minimum_samples": 40}))
    assert (found.what, found.reason) == ("training", "new data: 40 samples in bbbbbbbb that aaaaaaaa had not")
    found = verdict(project, recipe(on_new_data={"minimum_samples": 41}))
    assert found.what == "nothing" and "41 are asked for" in found.reason
    assert verdict(project, recipe()).what == "nothing"


def test_what_was_trained_on_or_never_trained_is_left_alone(project: Project) -> None:
    encoder(project, "e2", NEW)
    assert "current version" in verdict(project, recipe(on_new_data=True)).reason
    other = recipe(on_new_data=True).model_copy(update={"name": "other"})
    assert "run other once" in verdict(project, other).reason


def test_a_version_that_is_other_without_new_samples_is_no_reason(project: Project) -> None:
    dataset(project, "c" * 32 + ".dir", range(90))  # fewer, or the same with another quarantine
    assert verdict(project, recipe(on_new_data=True)).what == "nothing"


def test_drift_is_tested_first_and_decides_then(project: Project) -> None:
    settings = recipe(on_drift={"p_value": 0.01}, on_new_data={"minimum_samples": 1000})
    asked = verdict(project, settings)
    assert asked.what == "drift"
    trained = project.store.current("r", "pretrained_encoder")
    assert trained
    made_from = {"pretrained_encoder": trained.key, "dataset": NEW}
    stage(project, "drift", "d1", made_from=made_from, p_value=0.2)
    assert "no drift: p = 0.2" in verdict(project, settings).reason
    stage(project, "drift", "d2", made_from=made_from, p_value=0.001)
    found = verdict(project, settings)
    assert (found.what, found.key != asked.key) == ("training", True) and found.reason.startswith("drift: p = 0.001")
    stage(project, "drift", "d3", made_from=made_from | {"dataset": OLD}, p_value=0.001)  # of other data
    assert verdict(project, settings).what == "drift"
    assert verdict(project, recipe(on_drift={"minimum_samples": 41})).what == "nothing"


def test_an_upstream_champion_is_a_reason_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    reigning: list[tracking.Version] = []
    monkeypatch.setattr(tracking, "champion", lambda tracker, name: reigning[-1] if reigning else None)
    settings = recipe(on_upstream=True).model_copy(update={"start_from": "up"})
    theirs = stage(project, "pretrained_encoder", "theirs", "up", made_from={"dataset": OLD})
    assert verdict(project, settings).what == "nothing"  # it is no champion
    reigning.append(tracking.Version("up", 3, {"encoder": theirs.key}, ""))
    found = verdict(project, settings)
    assert (found.what, found.reason) == ("training", "upstream: up version 3 is its champion")
    reigning.append(tracking.Version("up", 2, {"encoder": "another"}, ""))  # it was taken back
    assert verdict(project, settings).what == "nothing"
    reigning.pop()
    encoder(project, "e3", NEW, start_from=theirs.key)
    assert verdict(project, settings).what == "nothing"


def test_a_source_is_read_when_it_has_changed_and_settled() -> None:
    watch = Watch().seen("one", now=0)
    assert not watch.settled(59, 60) and watch.settled(60, 60)
    watch = watch.seen("two", now=50)  # an upload goes on
    assert not watch.settled(100, 60) and watch.seen("two", now=100) == watch and watch.settled(110, 60)
    read = Watch(watch.looks, watch.since, watch.looks)
    assert not read.settled(1e9, 60)
    assert Watch(**json.loads(json.dumps(vars(read)))) == read
