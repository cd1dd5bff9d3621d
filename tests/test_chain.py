"""The chain on a small folder of real digits, without Dagster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ssl_pipeline import chain, lineage, origins, record
from ssl_pipeline.chain import ANEW
from ssl_pipeline.part import Away, PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.tracking import registry


def write_digits(folder: Path, count: int, classes: range = range(10), by_class: bool = True) -> None:
    bunch = load_digits()
    for i, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        if label in classes and i < count:
            place = folder / str(label) if by_class else folder
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.kron(image, np.ones((2, 2))) * 15.9).astype(np.uint8)).save(place / f"{i}.png")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def images(project: Project, **more) -> Dataset:
    return Dataset.model_validate({"name": "tiny", "source": {"kind": "image_folder", "path": "images"}} | more)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"by_class": False}, r"200 of 200 labels are null; classification needs labels"),
        ({"classes": range(3, 4)}, r"one class only \('3'\); classification needs two: set evaluations: \[\]"),
    ],
)
def test_labels_that_do_not_suffice_are_told_before_training(project, make_recipe, layout, words):
    write_digits(project.root / "images", 200, **layout)
    chain.dataset(project, images(project))
    with pytest.raises(PipelineError, match=words):
        chain.pretext_labels(project, make_recipe("rotation"))


@pytest.mark.parametrize("pairs", [False, True])
def test_translation_without_pairs_is_told_before_training(project, pairs):
    rows = [{"text": f"number {i} of many", "target": f"Nummer {i} von vielen"} for i in range(60)]
    (project.root / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "text", "path": "texts.jsonl"} | ({"target": "target"} if pairs else {})
    chain.dataset(project, Dataset.model_validate({"name": "tiny", "source": source}))
    encoder = {"kind": "text", "layers": 1, "width": 32, "heads": 2, "length": 16, "vocabulary": 300}
    recipe = Recipe.model_validate(
        {
            "name": "tiny_mlm", "dataset": "tiny", "encoder": encoder, "pretext": {"task": "masked_language"},
            "evaluations": [{"kind": "translation"}], "pretrain": {"batch_size": 16},
        }
    )  # fmt: skip
    if pairs:
        assert chain.pretext_labels(project, recipe).summary["samples"] > 0
    else:
        with pytest.raises(
            PipelineError, match=r"'tiny': none of its texts has another side.*source's target.*parallel"
        ):
            chain.pretext_labels(project, recipe)


def test_what_was_not_built_is_named(project, make_recipe):
    with pytest.raises(PipelineError, match=r"dataset 'tiny' has not been built: materialize tiny/dataset first"):
        chain.pretext_labels(project, make_recipe("rotation"))


def test_an_old_version_of_the_data_can_be_run_again(project, make_recipe):
    recipe = make_recipe("rotation", evaluations=[], promote=None)
    write_digits(project.root / "images", 150)
    old = chain.dataset(project, images(project))
    old_labels = chain.pretext_labels(project, recipe)
    write_digits(project.root / "images", 200)
    new = chain.dataset(project, images(project))
    assert new.summary["digest"] != old.summary["digest"]
    assert chain.pretext_labels(project, recipe).key != old_labels.key
    shutil.rmtree(project.store.root / "dataset")  # only DVC's cache still has the old version
    again = chain.dataset(project, images(project, version=old.summary["digest"]))
    assert again.summary["samples"] == old.summary["samples"]
    back = chain.pretext_labels(project, recipe)
    assert back.key == old_labels.key and back.reused
    assert origins.made_from(project, back, "dataset").path == again.path


@pytest.mark.slow
def test_new_data_between_two_stages_changes_nothing_that_was_begun(project, make_recipe, monkeypatch):
    """Another recipe may ingest the dataset anew while this one runs: its embeddings must not meet the new rows' labels."""
    recipe = make_recipe(
        "rotation",
        evaluations=[{"kind": "classification", "shots": ["all"], "supervised_steps": 0}],
        promote={"metric": "classification/linear/accuracy/all"},
        pretrain={"epochs": 8, "batch_size": 32, "learning_rate": 3e-3},
    )
    write_digits(project.root / "images", 800)
    old = chain.dataset(project, images(project))
    labels = chain.pretext_labels(project, recipe)
    write_digits(project.root / "images", 900)
    assert chain.dataset(project, images(project)).summary["digest"] != old.summary["digest"]
    encoder = chain.pretrained_encoder(project, recipe)
    assert encoder.summary["made_from"] == {"dataset": old.summary["digest"], "pretext_labels": labels.key}
    features = chain.features(project, recipe)
    assert features.summary["samples"] == old.summary["samples"]
    evaluated = chain.evaluation(project, recipe, "classification")
    assert evaluated.summary["made_from"]["dataset"] == old.summary["digest"]
    register = registry.register

    def unheard(*what):
        monkeypatch.setattr(registry, "register", register)
        register(*what)
        raise Away("MLflow went away after it had registered the version")

    monkeypatch.setattr(registry, "register", unheard)
    monkeypatch.setattr(record, "RETRY_SECONDS", 0)
    registered = chain.registered_model(project, recipe)  # DVC still holds that version
    assert registered.summary["version"] == 1 and registered.summary["champion"]
    assert "DVC holds" in next(g["detail"] for g in registered.summary["gates"] if g["name"] == "data_pinned")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.root / 'another.db'}")
    done = chain.run_recipe(recipe, images(project, version=old.summary["digest"]), project, say=print)
    assert done["registered_model"].summary["version"] == 1, "another MLflow gets a run of its own"


@pytest.mark.slow
def test_a_warm_start_is_shown_beside_a_fresh_encoder_on_the_same_budget_and_made_again_bit_for_bit(
    project, make_recipe
):
    recipe = make_recipe(
        "rotation",
        evaluations=[{"kind": "classification", "shots": ["all"], "supervised_steps": 0}],
        promote={"metric": "classification/linear/accuracy/all", "worse_by": 1.0},
        pretrain={"epochs": 8, "batch_size": 32, "learning_rate": 3e-3},
        retrain={"warm_start": {"replay": 0.5}},
    )
    write_digits(project.root / "images", 700)
    first = chain.run_recipe(recipe, images(project), project)
    assert ANEW not in first["classification"].summary["baselines"]  # nothing to go on from
    write_digits(project.root / "images", 900)
    second = chain.run_recipe(recipe, images(project), project)
    encoder = second["pretrained_encoder"]
    assert encoder.summary["made_from"]["start_from"] == first["pretrained_encoder"].key
    new, old = encoder.summary["new_samples"], encoder.summary["replayed_samples"]
    assert 100 < new == old < 200 and encoder.summary["steps"] == 8 * ((new + old) // 32)
    beside = second["classification"].summary["baselines"][ANEW]
    assert beside["classification/linear/accuracy/all"]["mean"] > 0.3
    fresh = [one for one in project.store.finished("pretrained_encoder") if one.config.get("steps")]
    assert [one.summary["steps"] for one in fresh] == [encoder.summary["steps"]]
    assert "new_samples" not in fresh[0].summary and "start_from" not in fresh[0].summary["made_from"]
    assert ANEW in (second["registered_model"].path / "model_card.md").read_text()
    again = chain.run_recipe(recipe, images(project), project)  # it is the champion now, and goes on from nothing more
    assert again["pretrained_encoder"].key == encoder.key and again["registered_model"].reused
    found = lineage.trace(project, recipe.name)
    assert found["model"].endswith("version 2") and second["dataset"].summary["digest"] in found["data"]
    assert "bit for bit" in lineage.reproduce(project, recipe.name, print)
