"""The asset graph: keys, dependencies, checks, jobs, schedules, and what is refused when it is loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import dagster as dg
import pytest

from ssl_pipeline import definitions as dagster_loads
from ssl_pipeline.orchestration import project_definitions
from ssl_pipeline.part import PipelineError
from ssl_pipeline.recipe import Dataset, Recipe

SHAPES = Dataset.model_validate({"name": "shapes", "source": {"kind": "image_folder", "path": "images"}})


def recipe(name: str, **changes: Any) -> Recipe:
    return Recipe.model_validate({"name": name, "dataset": "shapes", "pretext": {"task": "simclr"}} | changes)


def graph(*recipes: Recipe) -> dict[str, list[str]]:
    assets = project_definitions.definitions([SHAPES], list(recipes)).resolve_asset_graph()
    return {
        "/".join(key.path): sorted("/".join(p.path) for p in assets.get(key).parent_keys)
        for key in sorted(assets.get_all_asset_keys())
    }


def test_chain_of_assets() -> None:
    assert graph(recipe("a")) == {
        "a/classification": ["a/features"],
        "a/features": ["a/pretrained_encoder"],
        "a/pretext_labels": ["shapes/dataset"],
        "a/pretrained_encoder": ["a/pretext_labels"],
        "a/registered_model": ["a/classification"],
        "shapes/dataset": [],
        "shapes/leaderboard": ["a/classification"],
    }


def test_recipe_without_labels_has_no_classification() -> None:
    unlabelled = graph(recipe("a", evaluations=[], promote=None))
    assert unlabelled["a/registered_model"] == ["a/features"]
    assert "a/classification" not in unlabelled and "shapes/leaderboard" not in unlabelled


def test_leaderboard_waits_for_all_recipes() -> None:
    assert graph(recipe("a"), recipe("b"))["shapes/leaderboard"] == ["a/classification", "b/classification"]


def test_gates_block_where_they_can_first_be_asked() -> None:
    assets = project_definitions.definitions([SHAPES], [recipe("a")]).resolve_asset_graph()
    blocking = {("/".join(k.asset_key.path), k.name): assets.get(k).blocking for k in assets.asset_check_keys}
    assert blocking == {
        ("shapes/dataset", "nothing_quarantined"): False,
        ("shapes/dataset", "same_as_committed"): False,
        ("a/pretext_labels", "data_pinned"): True,
        ("a/pretext_labels", "labels_balanced"): False,
        ("a/pretrained_encoder", "not_collapsed"): True,
        ("a/features", "nothing_leaked"): True,
        ("a/classification", "metric_floor"): True,
        ("a/classification", "better_than_random"): True,
    }


def test_what_a_person_sees_of_an_asset() -> None:
    assets = project_definitions.definitions([SHAPES], [recipe("a", owners=["team:vision"])]).resolve_asset_graph()
    encoder = assets.get(dg.AssetKey(["a", "pretrained_encoder"]))
    assert encoder.group_name == "a" and encoder.pools == {"gpu"} and encoder.kinds == {"pytorch"}
    assert encoder.owners == ["team:vision"]
    for key in assets.get_all_asset_keys():
        assert len(assets.get(key).description or "") > 60, key


def test_code_version_follows_the_recipe_slice() -> None:
    def versions(one: Recipe) -> dict[str, str | None]:
        assets = project_definitions.definitions([SHAPES], [one]).resolve_asset_graph()
        return {k.path[-1]: assets.get(k).code_version for k in assets.get_all_asset_keys() if k.path[0] == "a"}

    before, after = versions(recipe("a")), versions(recipe("a", pretrain={"epochs": 7}))
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed == {"pretext_labels", "pretrained_encoder"}


def test_job_and_schedule() -> None:
    one = recipe("a", retrain={"cron": "0 3 * * 1", "timezone": "Europe/Berlin"})
    definitions = project_definitions.definitions([SHAPES], [one])
    job = definitions.resolve_job_def("a")
    assert dg.AssetKey(["shapes", "dataset"]) in job.asset_layer.executable_asset_keys
    schedule = definitions.resolve_schedule_def("a_retrain")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * 1", "Europe/Berlin")


@pytest.mark.parametrize("retrain", [{"cron": "every monday"}, {"cron": "0 3 * * 1", "timezone": "Mars/Olympus"}])
def test_impossible_schedule_is_refused(retrain: dict[str, str]) -> None:
    with pytest.raises(PipelineError, match="recipe 'a': retrain: .*five fields"):
        project_definitions.definitions([SHAPES], [recipe("a", retrain=retrain)])


def test_missing_dataset_names_the_near_one() -> None:
    with pytest.raises(PipelineError, match="recipe 'a': there is no dataset 'shape'; did you mean 'shapes'"):
        project_definitions.definitions([SHAPES], [recipe("a", dataset="shape")])


def test_name_used_twice_is_refused() -> None:
    with pytest.raises(PipelineError, match="recipe 'a' is defined more than once"):
        project_definitions.definitions([SHAPES], [recipe("a"), recipe("a")])


def test_code_location_of_this_project_imports_nothing_slow() -> None:
    script = (
        "import sys; from ssl_pipeline.definitions import defs; graph = defs().resolve_asset_graph();"
        "slow = {'torch', 'timm', 'transformers', 'mlflow', 'dvc', 'pandas', 'pyarrow', 'sklearn', 'scipy', 'matplotlib'};"
        "defs().get_repository_def(); assert not slow & set(sys.modules), slow & set(sys.modules);"
        "print(sorted('/'.join(k.path) for k in graph.get_all_asset_keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("digits/dataset", "digits_simclr/registered_model", "digits/leaderboard"):
        assert f"'{name}'" in done.stdout


def test_everything_is_explained_in_the_ui() -> None:
    """What a newcomer can click on says what it is in a sentence: of the package's own recipes, and of one that automates all."""
    retrain = {"cron": "0 3 * * 1", "on_new_data": True, "on_drift": True}
    automatic = project_definitions.definitions([SHAPES], [recipe("a", retrain=retrain, embeddings=True), recipe("b")])
    kinds: set[str] = set()
    for found in (dagster_loads.defs(), automatic):
        repository = found.get_repository_def()
        graph = repository.asset_graph
        described = {
            **{f"asset {key.to_user_string()}": graph.get(key).description for key in graph.get_all_asset_keys()},
            **{f"check {key.to_user_string()}": graph.get(key).description for key in graph.asset_check_keys},
            **{f"sensor {sensor.name}": sensor.description for sensor in repository.sensor_defs},
            **{f"schedule {schedule.name}": schedule.description for schedule in repository.schedule_defs},
            **{f"job {job.name}": job.description for job in repository.get_all_jobs() if job.name != "__ASSET_JOB"},
        }
        for name, text in described.items():
            kinds.add(name.partition(" ")[0])
            assert len(text or "") > 30 and str(text).rstrip().endswith((".", "?")), f"{name}: {text!r}"
            assert str(text)[0].isupper() or str(text)[0].isdigit(), f"{name}: {text!r}"
            assert len(str(text).split()) > 6, f"{name}: {text!r} is a list of words"
    assert kinds == {"asset", "check", "sensor", "schedule", "job"}


def test_groups_follow_each_other() -> None:
    """Collapsed to its groups the graph leads from datasets over recipes to leaderboards, and never back."""
    assets = project_definitions.definitions([SHAPES], [recipe("a"), recipe("b")]).resolve_asset_graph()
    nodes = [assets.get(key) for key in assets.get_all_asset_keys()]
    edges = {(assets.get(p).group_name, n.group_name) for n in nodes for p in n.parent_keys}
    between = {edge for edge in edges if edge[0] != edge[1]}
    assert between == {("datasets", "a"), ("datasets", "b"), ("a", "leaderboards"), ("b", "leaderboards")}


def test_package_imports_nothing_slow() -> None:
    script = "import sys, ssl_pipeline; assert not {'dagster', 'torch', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
