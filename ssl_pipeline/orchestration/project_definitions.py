"""All of a project's datasets and recipes together: what holds only between them, and what compares them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dagster as dg

from ssl_pipeline import recipe
from ssl_pipeline.orchestration import model_jobs, schedules, sensors
from ssl_pipeline.orchestration.assets import leaderboard_asset
from ssl_pipeline.orchestration.components import Dataset, Pretraining
from ssl_pipeline.part import PipelineError, did_you_mean
from ssl_pipeline.pretext import TASKS, names_of


def load(path_within_project: Path) -> dg.Definitions:
    """What Dagster loads: the project's defs folder, checked as a whole."""
    found = dg.load_from_defs_folder(path_within_project=path_within_project)
    tree = found.component_tree
    assert tree
    datasets = [component.config for component in tree.get_all_components(Dataset)]
    recipes = [component.config for component in tree.get_all_components(Pretraining)]
    check(datasets, recipes)
    return dg.Definitions.merge(found, *across(datasets, recipes))


def definitions(datasets: list[recipe.Dataset], recipes: list[recipe.Recipe]) -> dg.Definitions:
    """The same without Dagster's own loading, for the command line and for tests."""
    check(datasets, recipes)
    parts: list[Dataset | Pretraining] = [*map(Dataset, datasets), *map(Pretraining, recipes)]
    return dg.Definitions.merge(*(part.build_defs() for part in parts), *across(datasets, recipes))


def across(datasets: list[recipe.Dataset], recipes: list[recipe.Recipe]) -> list[dg.Definitions]:
    """What belongs to no single component: leaderboards, sources that recipes wait for, and what keeps the project going."""
    kept = dg.Definitions(
        jobs=[model_jobs.promote, model_jobs.rollback], sensors=[sensors.killed_runs, sensors.failures]
    )
    return [comparisons(recipes), kept, *(schedules.dataset_automation(dataset, recipes) for dataset in datasets)]


def comparisons(recipes: list[recipe.Recipe]) -> dg.Definitions:
    """A leaderboard a dataset, over the recipes that are evaluated."""
    boards: dict[str, list[recipe.Recipe]] = {}
    for one in recipes:
        if one.evaluations:
            boards.setdefault(one.dataset, []).append(one)
    # one process for all stages: training has its own, and importing torch once is quicker than six times
    return dg.Definitions(
        assets=[leaderboard_asset(name, together) for name, together in boards.items()], executor=dg.in_process_executor
    )


def check(datasets: list[recipe.Dataset], recipes: list[recipe.Recipe]) -> None:
    """Raises PipelineError where a name is used twice or a recipe's dataset does not exist."""
    known = [dataset.name for dataset in datasets]
    for kind, names in (("dataset", known), ("recipe", [r.name for r in recipes])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise PipelineError(f"{kind} {twice[0]!r} is defined more than once: give each a name of its own")
    for one in recipes:
        if one.dataset not in known:
            hint = did_you_mean(one.dataset, known) or f"; there are {', '.join(known) or 'none: add a Dataset'}"
            raise PipelineError(f"recipe {one.name!r}: there is no dataset {one.dataset!r}{hint}")
        refuse_wrong_upstream(one, recipes)
        refuse_mixed_up(one, next(dataset for dataset in datasets if dataset.name == one.dataset))


def refuse_wrong_upstream(one: recipe.Recipe, recipes: list[recipe.Recipe]) -> None:
    """Raises PipelineError where a recipe that this one needs does not exist, needs this one, or does not fit."""
    others = {other.name: other for other in recipes if other.name != one.name}
    for field, name in one.upstream.items():
        if name not in others:
            hint = did_you_mean(name, others) or f"; there are {', '.join(others) or 'none'}"
            raise PipelineError(f"recipe {one.name!r}: {field}: there is no other recipe {name!r}{hint}")
        waiting, seen = [name], set[str]()
        while waiting:
            seen.add(then := waiting.pop())
            following = others[then].upstream.values() if then in others else ()
            if one.name in following:
                raise PipelineError(f"recipe {one.name!r}: {field} leads back to it: leave it out in {then!r}, or here")
            waiting += set(following) - seen
    if one.start_from and (theirs := others[one.start_from].encoder) != one.encoder:
        raise PipelineError(
            f"recipe {one.name!r}: start_from: {one.start_from!r} has another encoder ({theirs!r}): make them the same"
        )
    about = one.upstream.get("encoder.item_features")
    if about and others[about].encoder.kind == one.encoder.kind:
        raise PipelineError(
            f"recipe {one.name!r}: encoder.item_features: {about!r} embeds users, not items: name a recipe of texts or pictures"
        )


def refuse_mixed_up(one: recipe.Recipe, dataset: recipe.Dataset) -> None:
    """Raises PipelineError where the encoder is for other data than the dataset holds, with the tasks that do fit."""
    modality = dataset.source.modality
    if one.encoder.kind != modality:
        fitting = names_of(task for task in TASKS if modality in task.kinds)
        raise PipelineError(
            f"recipe {one.name!r}: dataset {dataset.name!r} holds {modality} data, and encoder.kind is {one.encoder.kind}: write "
            f"encoder.kind: {modality}, and one of its tasks: {', '.join(fitting)}"
        )
