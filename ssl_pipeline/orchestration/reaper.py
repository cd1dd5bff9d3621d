"""Runs whose process is gone. Dagster's default launcher does not notice: they stay STARTED for ever, and keep their
turn in the pool, so that nothing else trains. Where several machines share a database, each looks after its own."""

from __future__ import annotations

import dagster as dg
import psutil

from ssl_pipeline import database
from ssl_pipeline.orchestration.instance import MACHINE

UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def reap(instance: dg.DagsterInstance) -> list[str]:
    """Marks dead runs as failed, or as cancelled where they were about to be, and returns their ids. Failed ones are tried again by
    Dagster's daemon (`run_retries` in dagster.yaml), and go on from the last checkpoint. Runs that ended give their turns back."""
    reaped = dead(instance)
    for run in reaped:
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "The process of this run is gone.")
        else:
            instance.report_run_failed(run, "The process of this run is gone: it was killed, or the machine went down.")
    free_turns(instance)
    return [run.run_id for run in reaped]


def free_turns(instance: dg.DagsterInstance) -> None:
    """Also of runs that Dagster's code server found dead: it marks them as failed within a second, but leaves them their turn."""
    log = instance.event_log_storage
    for run_id in log.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            log.free_concurrency_slots_for_run(run_id)


def dead(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs of this machine that are recorded as going on and whose process is gone."""
    going_on = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    gone = [run.run_id for run in going_on if is_here(run) and is_dead(instance, run.run_id)]
    # asked again: a run that ends while it is looked at has no process either
    return [run for id in gone if (run := instance.get_run_by_id(id)) and not run.is_finished]


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
