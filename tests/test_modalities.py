"""Every demo recipe beyond digits: from the package's data to a registered model that a fresh process loads without this
package; and the same loss from two processes as from one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pipeline import chain, ingest
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.pretext import TASKS, pack
from ssl_pipeline.pretrain import launch
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe, load
from ssl_pipeline.store import Store

DEFS = Path(chain.__file__).parent / "defs"
RECIPES = {
    one.name: one for file in sorted(DEFS.glob("*/defs.yaml")) for one in load(file)[1] if one.dataset != "digits"
}
DATASETS = {one.name: one for file in sorted(DEFS.glob("*/defs.yaml")) for one in load(file)[0]}
LIGHT = {
    "classification": {"shots": [5], "supervised_steps": 2},
    "recommendation": {"resamples": 100},
    "detection": {"steps": 2},
    "segmentation": {"supervised_steps": 2},
    "retrieval": {"draws": 100},
    "translation": {"steps": 10, "test_sentences": 20, "resamples": 100},
}

LOADS = """
import json, sys
sys.modules["ssl_pipeline"] = None  # importing it fails
import mlflow, numpy, torch
encoder = mlflow.pytorch.load_model(sys.argv[1])
given, expected = numpy.load(sys.argv[2]), numpy.load(sys.argv[3])
numpy.testing.assert_allclose(encoder(torch.from_numpy(given)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
print("loaded")
"""


def shorter(recipe: Recipe, **pretrain) -> Recipe:
    """The recipe with a small budget; nothing is promoted, as little is learnt."""
    said = recipe.model_dump(mode="json")
    evaluations = [one | LIGHT.get(one["kind"], {}) for one in said["evaluations"]]
    return Recipe.model_validate(
        said | {"evaluations": evaluations, "promote": None, "pretrain": said["pretrain"] | pretrain}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_from_source_to_a_model_that_loads_without_this_package(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    epochs = {"video": 30, "image_text": 12}.get(RECIPES[name].encoder.kind, 3)
    recipe = shorter(RECIPES[name], epochs=epochs, warmup_epochs=0.5)
    for other in recipe.upstream.values():
        first = shorter(RECIPES[other], epochs=3, warmup_epochs=0.5)
        chain.run_recipe(first, DATASETS[first.dataset], project, to="features", say=lambda line: None)
    done = chain.run_recipe(recipe, DATASETS[recipe.dataset], project, say=lambda line: None)
    for stage, picture in (("pretext_labels", "sheet"), ("pretrained_encoder", "curves"), ("features", "neighbours")):
        assert (done[stage].path / f"{picture}.png").stat().st_size > 1000
    for evaluation in recipe.evaluations:
        summary = done[evaluation.kind].summary
        assert set(evaluation.metrics()) <= set(summary["metrics"]) and "random encoder" in summary["baselines"]
        assert evaluation.caption(summary)
    assert "class=" not in (done["registered_model"].path / "model_card.md").read_text()
    encoder = encoders.load(done["pretrained_encoder"].path)
    deployed = DeployedEncoder(encoder)
    given = deployed.example(3)
    np.save(tmp_path / "given.npy", given.numpy())
    np.save(tmp_path / "expected.npy", deployed(given).numpy())
    said = subprocess.run(
        [sys.executable, "-c", LOADS, done["registered_model"].summary["uri"], tmp_path / "given.npy", tmp_path / "expected.npy"],
        env={"PATH": "", "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": project.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.stdout.strip().endswith("loaded"), said.stderr[-3000:]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The pack of a recipe, each dataset ingested once."""
    store = Store(tmp_path_factory.mktemp("store"))

    def build(recipe: Recipe) -> pack.Pack:
        data: Dataset = DATASETS[recipe.dataset]
        stage = ingest.build(data, store, lambda tree: data.name, store.root, lambda line: None)
        return pack.open_pack(pack.build(store, stage, recipe.encoder))

    return build


PAIRS = {
    "audio": ("notes_simclr", ["simclr", "inpainting", "vicreg", "lejepa"]),
    "video": ("video_frame_order", ["frame_order", "clip_order"]),
    "text": ("news_mlm", ["masked_language", "simcse", "text_crops"]),
    "image_text": ("emoji_clip", ["clip", "siglip"]),
    "interactions": ("movies_next_item", ["next_item", "masked_items"]),
    "series": ("watch_masked_patches", ["masked_patches", "simclr"]),
}
"""For each kind of encoder a recipe, and tasks that it is trained by."""


def test_every_task_that_is_not_for_images_alone_is_compared():
    compared = {task for _, tasks in PAIRS.values() for task in tasks}
    assert {task.model_fields["task"].default for task in TASKS if "image" not in task.kinds} <= compared


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [(name, task) for name, tasks in PAIRS.values() for task in tasks])
def test_two_processes_give_the_losses_of_one(name, task, packed, tmp_path):
    said = RECIPES[name].model_dump(mode="json")
    encoder = said["encoder"] | ({"causal": task == "next_item"} if said["encoder"]["kind"] == "interactions" else {})
    # SimCSE wants some dropout, but each process draws its own
    without_chance = json.loads(re.sub(r'"dropout": [0-9.]+', '"dropout": 1e-9', json.dumps(encoder)))
    exact = {
        "precision": "fp32",
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "log_every": 1,
        "epochs": 1,
        "warmup_epochs": 0,
    }
    losses = []
    for processes in (1, 2):
        recipe = Recipe.model_validate(
            said | {"encoder": without_chance, "pretext": {"task": task}, "evaluations": [], "promote": None}
            | {"pretrain": said["pretrain"] | exact | {"batch_size": 32, "processes": processes, "compile": False}}
        )  # fmt: skip
        rows: list[dict[str, float]] = []
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch.run(recipe, packed(recipe), folder, rows.extend)
        losses.append([row["loss"] for row in rows if "loss" in row][:10])
    assert len(losses[0]) == len(losses[1]) > 0
    np.testing.assert_allclose(losses[1][0], losses[0][0], rtol=1e-5)
    # roundings grow from step to step
    np.testing.assert_allclose(losses[1][1:4], losses[0][1:4], rtol=2e-3)
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2)


def test_the_window_of_a_demo_is_what_a_person_sees(packed):
    recipe = RECIPES["watch_masked_patches"]
    built = packed(recipe)
    encoder = encoders.build(recipe.encoder, built.given)
    shown = encoder.show({k: torch.from_numpy(v) for k, v in pack.take(built.samples("test"), slice(0, 3)).items()})
    assert shown.ndim == 4 and len(shown) == 3 and shown.min() >= 0 and shown.max() <= 1 and shown.std() > 0.01
