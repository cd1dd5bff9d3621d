"""Runs whose process is gone. Dagster's default launcher does not notice: they stay STARTED for ever, and keep their
turn in the pool, so that nothing else trains. Where several machines share a database, each looks after its own."""

from __future__ import annotations

import dagster as dg
import psutil
from dagster._core.storage.tags import MAX_RETRIES_TAG

from ssl_pipeline import database
from ssl_pipeline.orchestration.instance import MACHINE

MOST_ATTEMPTS = 3
"""After which a run that is killed each time stays failed."""
UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def reap(instance: dg.DagsterInstance) -> list[str]:
    """Marks dead runs as failed, gives their turns back, and returns their ids. Those that were not being cancelled are tried again
    by Dagster's daemon, and go on from the last checkpoint."""
    reaped = []
    for run in dead(instance):
        if run.remote_job_origin and run.status != dg.DagsterRunStatus.CANCELING:
            instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: str(MOST_ATTEMPTS)})
        instance.report_run_failed(run, "The process of this run is gone: it was killed, or the machine went down.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        reaped.append(run.run_id)
    return reaped


def dead(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs of this machine that are recorded as going on and whose process is gone."""
    going_on = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return [run for run in going_on if is_here(run) and is_dead(instance, run.run_id)]


def is_here(run: dg.DagsterRun) -> bool:
    """Whether the run's process numbers are this machine's."""
    return run.tags[MACHINE] == database.machine() if MACHINE in run.tags else not database.url()


def is_dead(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a process is recorded for this run and none of the recorded ones is alive."""
    alive = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.event_specific_data.metadata.get("pid") if event and event.event_specific_data else None  # type: ignore[union-attr]
        if pid is not None:
            alive.append(was_running(int(str(pid.value)), entry.timestamp))
    return bool(alive) and not any(alive)


def was_running(pid: int, then: float) -> bool:
    """Whether process `pid` lives and is the one of that time, not a later one that got the same number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= then + 1
    except psutil.NoSuchProcess:
        return False
