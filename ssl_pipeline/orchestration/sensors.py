"""What starts runs by itself, as recipes ask for it: new data, drift, an upstream champion, a champion to embed with; and what
keeps runs going: killed ones are found, failed ones are told of. Why is `retraining.py`'s; here it is asked and said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from ssl_pipeline import recipe
from ssl_pipeline.notify import notify
from ssl_pipeline.orchestration.assets import REASON
from ssl_pipeline.orchestration.failures import what_failed
from ssl_pipeline.orchestration.reaper import reap
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.retraining import Watch, verdict

EVERY_SECONDS = 30
Answer = dg.SensorResult | dg.SkipReason

now: Callable[[], float] = time.time


def source_sensor(
    dataset: recipe.Dataset, recipes: list[recipe.Recipe], refresh: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """Reads the source again once it has changed and settled, so that its new version is there to decide by."""
    waits = [r.retrain.on_new_data.settle_seconds for r in recipes if r.retrain.on_new_data]
    settle = max(waits, default=recipe.NewData().settle_seconds)

    @dg.sensor(
        name=f"{dataset.name}_source", job=refresh, minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks every half minute whether the source of {dataset.name} (files added, changed, taken away) has changed "
        f"and then stayed as it is for {settle:g} seconds; if so, reads it as a new version of the dataset.",
    )  # fmt: skip
    def source(context: dg.SensorEvaluationContext) -> Answer:
        from ssl_pipeline.ingest import readers

        try:
            looks = readers.fingerprint(dataset.source, Project.find().root)
        except PipelineError as error:
            return dg.SkipReason(str(error))
        watch = Watch(**json.loads(context.cursor or "{}")).seen(looks, now())
        if not watch.settled(now(), settle):
            context.update_cursor(json.dumps(asdict(watch)))
            waiting = "it has changed: waiting until it settles" if watch.looks != watch.read else "nothing has changed"
            return dg.SkipReason(f"{dataset.name}: {waiting}")
        asked = dg.RunRequest(run_key=f"{dataset.name}-{looks}-{watch.since}", tags={REASON: "the source has changed"})
        return dg.SensorResult([asked], cursor=json.dumps(asdict(Watch(looks, watch.since, looks))))

    return source


def retrain_sensor(
    config: recipe.Recipe, train: dg.UnresolvedAssetJobDefinition, drift: dg.UnresolvedAssetJobDefinition | None
) -> dg.SensorDefinition:
    """Asks for a run of the recipe when its data, or what it is made from, gives a reason."""

    @dg.sensor(
        name=f"{config.name}_retrain_when_due", jobs=[train, drift] if drift else [train],
        minimum_interval_seconds=EVERY_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs the recipe again when there is a reason that it names: enough new data, new data that differs from what "
        "it was trained on (drift), or a new champion of a recipe that it builds on. Each tick says why, or why not.",
    )  # fmt: skip
    def retrain_when_due(context: dg.SensorEvaluationContext) -> Answer:
        try:
            found = verdict(Project.find(), config)
        except PipelineError as error:
            return dg.SkipReason(str(error))
        if found.what == "nothing":
            context.update_cursor("")  # the same circumstances may come again
            return dg.SkipReason(found.reason)
        if found.key == context.cursor:
            return dg.SkipReason(f"asked for already: {found.reason}")
        job = drift if found.what == "drift" and drift else train
        if found.reason.startswith("drift"):
            notify("drift", found.reason, recipe=config.name)
        asked = dg.RunRequest(job_name=job.name, tags={REASON: found.reason})
        return dg.SensorResult([asked], cursor=found.key)

    return retrain_when_due


def embeddings_sensor(config: recipe.Recipe, job: dg.UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Follows the champion, also when it was promoted or taken back by hand."""

    @dg.sensor(
        name=f"{config.name}_embeddings_when_due", job=job, minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Embeds all samples of {config.dataset} again when {config.name} has another champion (the model version in "
        "use) or the data has another version.",
    )  # fmt: skip
    def embeddings_when_due(context: dg.SensorEvaluationContext) -> Answer:
        from ssl_pipeline import tracking
        from ssl_pipeline.record import open_tracker

        project = Project.find()
        try:
            champion = tracking.champion(open_tracker(project), config.name)
        except PipelineError as error:
            return dg.SkipReason(str(error))
        data = project.store.current(config.dataset, "dataset")
        if champion is None or data is None:
            return dg.SkipReason(f"{config.name} has no champion yet")
        key = f"{champion.tags['content_key']}-{data.summary['digest']}"
        if key == context.cursor:
            return dg.SkipReason(f"version {champion.version} has embedded this data, or was asked to")
        reason = f"champion version {champion.version}, data {data.summary['digest'][:8]}"
        # a champion that comes back finds its embeddings in the store
        return dg.SensorResult([dg.RunRequest(tags={REASON: reason})], cursor=key)

    return embeddings_when_due


@dg.sensor(
    name="killed_runs", minimum_interval_seconds=EVERY_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING,
    target=None,
    description="Finds runs whose process was killed (by the machine's memory guard, by a restart), marks them as failed, frees "
    "their turn for others, and asks for a new run that goes on from the last checkpoint.",
)  # fmt: skip
def killed_runs(context: dg.SensorEvaluationContext) -> Answer:
    dead = reap(context.instance)
    return dg.SkipReason(f"killed, and asked to go on: {', '.join(dead)}" if dead else "every run's process is alive")


@dg.run_failure_sensor(
    name="failures", default_status=dg.DefaultSensorStatus.RUNNING, monitor_all_code_locations=False,
    description="Tells the hook that the environment variable SSL_PIPELINE_NOTIFY names (a web address or a command) of each "
    "failed run, with what failed in it. Without a hook it does nothing.",
)  # fmt: skip
def failures(context: dg.RunFailureSensorContext) -> None:
    run = context.dagster_run
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return  # its process was killed; the run that goes on in its place is told of, should it fail
    wanted = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    events = [entry.dagster_event for entry in context.instance.all_logs(run.run_id, of_type=wanted)]
    told = [f"{what}: {why}" for what, why in what_failed([e for e in events if e]).items()]
    notify(
        "failure",
        "; ".join(told) or context.failure_event.message or "failed",
        job=run.job_name,
        run=run.run_id,
        reason=run.tags.get(REASON, ""),
    )
