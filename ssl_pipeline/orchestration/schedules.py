"""Jobs, and what starts them by itself: a schedule where a recipe names a time, sensors where it names a reason."""

from __future__ import annotations

import dagster as dg

from ssl_pipeline import recipe
from ssl_pipeline.orchestration import sensors
from ssl_pipeline.orchestration.assets import REASON
from ssl_pipeline.part import PipelineError


def recipe_job(config: recipe.Recipe) -> dg.UnresolvedAssetJobDefinition:
    """From the source to the registered model, all stages; what is there already is reused."""
    others = [name for name, there in (("drift", config.retrain.on_drift), ("embeddings", config.embeddings)) if there]
    selection = dg.AssetSelection.assets([config.dataset, "dataset"]) | dg.AssetSelection.groups(config.name)
    return dg.define_asset_job(
        config.name,
        selection=selection - dg.AssetSelection.assets(*([config.name, name] for name in others))
        if others
        else selection,
        description=(
            f"{config.description}\n\nThe whole recipe: from dataset {config.dataset} to a version of model {config.name} in "
            "MLflow. What is there already is reused."
        ).strip(),
    )


def recipe_automation(config: recipe.Recipe) -> dg.Definitions:
    """The recipe's jobs, schedule and sensors. Raises PipelineError where the cron expression or the time zone is none."""
    train = recipe_job(config)
    drift = beside(config, "drift", "Tests whether new samples differ from those that the encoder was trained on.")
    embed = beside(config, "embeddings", "Embeds all samples with the champion, which is the model version in use.")
    retrain = config.retrain
    started: list[dg.SensorDefinition] = []
    if retrain.on_new_data or retrain.on_drift or retrain.on_upstream:
        started.append(sensors.retrain_sensor(config, train, drift if retrain.on_drift else None))
    if config.embeddings:
        started.append(sensors.embeddings_sensor(config, embed))
    jobs = [train, *([drift] if retrain.on_drift else []), *([embed] if config.embeddings else [])]
    return dg.Definitions(jobs=jobs, schedules=cron_schedules(config, train), sensors=started)


def beside(config: recipe.Recipe, stage: str, description: str) -> dg.UnresolvedAssetJobDefinition:
    """A job of one asset that is no part of the chain."""
    description += " A sensor runs it by itself, when there is reason to."
    selection = dg.AssetSelection.assets([config.name, stage])
    return dg.define_asset_job(f"{config.name}_{stage}", selection=selection, description=description)


def dataset_automation(dataset: recipe.Dataset, recipes: list[recipe.Recipe]) -> dg.Definitions:
    """Where recipes on a dataset wait for new data: the sensor of its source, and the job that reads it."""
    waiting = [r for r in recipes if r.dataset == dataset.name and (r.retrain.on_new_data or r.retrain.on_drift)]
    if not waiting:
        return dg.Definitions()
    selection = dg.AssetSelection.assets([dataset.name, "dataset"])
    refresh = dg.define_asset_job(
        f"{dataset.name}_refresh",
        selection=selection,
        description=f"Reads the source of {dataset.name} again, as a new version where it has changed; a sensor runs it.",
    )
    return dg.Definitions(jobs=[refresh], sensors=[sensors.source_sensor(dataset, waiting, refresh)])


def cron_schedules(config: recipe.Recipe, job: dg.UnresolvedAssetJobDefinition) -> list[dg.ScheduleDefinition]:
    if config.retrain.cron is None:
        return []
    try:
        return [
            dg.ScheduleDefinition(
                name=f"{config.name}_retrain",
                job=job,
                cron_schedule=config.retrain.cron,
                execution_timezone=config.retrain.timezone,
                tags={REASON: f"schedule: {config.retrain.cron} {config.retrain.timezone}"},
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description="Runs the whole recipe at the time that it names; stages whose inputs did not change are reused.",
            )
        ]
    except dg.DagsterInvalidDefinitionError as error:
        raise PipelineError(
            f"recipe {config.name!r}: retrain: cron {config.retrain.cron!r} in zone {config.retrain.timezone!r} is no "
            "schedule: write five fields such as '0 3 * * 1' (Mondays at 3) and a zone such as Europe/Berlin"
        ) from error
