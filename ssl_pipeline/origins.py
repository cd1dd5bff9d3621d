"""What a stage is made from: the stages before it, as they are now or as they were then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack

packs = late("ssl_pipeline.pretext.pack")
versioning = late("ssl_pipeline.versioning")

Say = Callable[[str], None]


def upstream(project: Project, owner: str, stage: str) -> Stage:
    """The stage that this one reads. Raises PipelineError where it has not been made."""
    if found := project.store.current(owner, stage):
        return found
    what = f"dataset {owner!r} has" if stage == "dataset" else f"{stage} of recipe {owner!r} has"
    raise PipelineError(
        f"{what} not been built: materialize {owner}/{stage} first, or `ssl-pipeline run` the whole chain"
    )


def made_from(project: Project, stage: Stage, name: str) -> Stage:
    """The stage `name` that this one was computed from, whatever its owner uses by now; a dataset goes by its digest."""
    key = stage.summary["made_from"][name]
    made_by = {"item_features": "features", "start_from": "pretrained_encoder"}.get(name, name)
    if found := dataset_of(project, key) if name == "dataset" else project.store.get(made_by, key):
        return found
    raise PipelineError(
        f"{stage.name} {stage.key} was made from {name} {key}, which is not in the store any more: run the recipe again"
    )


def prepared(project: Project, recipe: Recipe, before: Stage | None = None) -> tuple[Stage, Pack, dict[str, str]]:
    """The dataset and its pack, as the stage `before` was made from them or as they are by now; and what a stage notes of them
    in `made_from`."""
    data = made_from(project, before, "dataset") if before else upstream(project, recipe.dataset, "dataset")
    origin = {"dataset": data.summary["digest"]}
    described = None
    if about := recipe.upstream.get("encoder.item_features"):
        described = made_from(project, before, "item_features") if before else upstream(project, about, "features")
        origin["item_features"] = described.key
    return data, packs.open_pack(packs.build(project.store, data, recipe.encoder, described)), origin


def dataset_of(project: Project, digest: str) -> Stage | None:
    """A dataset by its digest."""
    return next((one for one in project.store.finished("dataset") if one.summary["digest"] == digest), None)


def restored(project: Project, name: str, digest: str, say: Say = print) -> Stage:
    """A version of a dataset, from DVC's cache or remote."""

    def write(folder: Any) -> dict[str, Any]:
        versioning.restore(project.root, name, digest, folder / "tree")
        described = json.loads((folder / "tree" / "dataset.json").read_text())
        return described | {"digest": digest, "reasons": {}, "quarantined_fraction": 0.0}

    return project.store.build("dataset", {"version": digest}, {}, "1", write, on_wait=say)


def finish(project: Project, recipe: Recipe, stage: Stage) -> Stage:
    project.store.set_current(recipe.name, stage)
    return stage


def dump(part: Any) -> dict[str, Any]:
    return part.model_dump(mode="json")
