"""From MLflow back to Dagster: what a run carries of the Dagster run that asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_pipeline.asked import ASKED, Asked, actor, dagster_links, dagster_tags
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_run
from ssl_pipeline.store import Stage

DATA = Stage("dataset", "0" * 16, Path("nowhere"), {"digest": "0" * 32 + ".dir"}, False)


@pytest.fixture
def by_dagster(monkeypatch: pytest.MonkeyPatch):
    """As inside an asset that the server at port 3999 shows."""
    monkeypatch.setenv("SSL_PIPELINE_DAGSTER_UI", "http://127.0.0.1:3999/")
    token = ASKED.set(Asked("1a2b3c4d-0000-0000-0000-000000000000", "new data"))
    yield
    ASKED.reset(token)


def test_a_run_links_to_the_asset_and_the_dagster_run(by_dagster, tracker, make_recipe, tmp_path) -> None:
    run_id = open_run(Project(tmp_path), make_recipe(), "k1", DATA, tracker)
    with tracker.connected() as client:
        tags = client.get_run(run_id).data.tags
    assert tags["dagster_run"] == "1a2b3c4d-0000-0000-0000-000000000000"
    note = tags["mlflow.note.content"]
    assert "[asset tiny_simclr/pretrained_encoder](http://127.0.0.1:3999/assets/tiny_simclr/pretrained_encoder)" in note
    assert "[run 1a2b3c4d](http://127.0.0.1:3999/runs/1a2b3c4d-0000-0000-0000-000000000000)" in note
    assert actor()[0].endswith(", Dagster run 1a2b3c4d") and actor()[1] == "new data"


def test_a_run_from_python_claims_no_dagster_run(tracker, make_recipe, tmp_path) -> None:
    run_id = open_run(Project(tmp_path), make_recipe(), "k1", DATA, tracker)
    with tracker.connected() as client:
        assert not {"dagster_run", "mlflow.note.content"} & set(client.get_run(run_id).data.tags)
    assert dagster_links("a/features") is None and dagster_tags() == {} and "Dagster" not in actor()[0]


def test_without_a_served_address_the_usual_one_is_meant(by_dagster, monkeypatch) -> None:
    monkeypatch.delenv("SSL_PIPELINE_DAGSTER_UI")
    assert "(http://127.0.0.1:3000/assets/a/features)" in str(dagster_links("a/features"))
