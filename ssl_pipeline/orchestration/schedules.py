"""Jobs and schedules: a job a recipe, and a schedule where the recipe names a time."""

from __future__ import annotations

import dagster as dg

from ssl_pipeline import recipe
from ssl_pipeline.part import PipelineError


def recipe_job(config: recipe.Recipe) -> dg.UnresolvedAssetJobDefinition:
    """From the source to the registered model, all stages; what is there already is reused."""
    return dg.define_asset_job(
        config.name,
        selection=dg.AssetSelection.assets([config.dataset, "dataset"]) | dg.AssetSelection.groups(config.name),
        description=f"{config.description}\n\nDataset {config.dataset} to registered model {config.name}.".strip(),
    )


def recipe_schedules(config: recipe.Recipe, job: dg.UnresolvedAssetJobDefinition) -> list[dg.ScheduleDefinition]:
    """Raises PipelineError where the cron expression or the time zone is none."""
    if config.retrain.cron is None:
        return []
    try:
        return [
            dg.ScheduleDefinition(
                name=f"{config.name}_retrain",
                job=job,
                cron_schedule=config.retrain.cron,
                execution_timezone=config.retrain.timezone,
                description="Runs the whole chain again; stages whose inputs did not change are reused.",
            )
        ]
    except dg.DagsterInvalidDefinitionError as error:
        raise PipelineError(
            f"recipe {config.name!r}: retrain: cron {config.retrain.cron!r} in zone {config.retrain.timezone!r} is no "
            "schedule: write five fields such as '0 3 * * 1' (Mondays at 3) and a zone such as Europe/Berlin"
        ) from error
