"""Whether Dagster's instance can be read and written, which of its runs are dead, and which failed last."""

from __future__ import annotations

import time

import dagster as dg

from ssl_pipeline.orchestration.failures import what_failed
from ssl_pipeline.orchestration.instance import in_terminal
from ssl_pipeline.orchestration.reaper import dead
from ssl_pipeline.project import Project

RUNS = 500
"""So many of the last are looked at."""


def runs(project: Project) -> int:
    """How many runs there are; reads the database and writes a line of its own into it. Raises whatever is in the way."""
    with in_terminal(project) as instance:
        instance.run_storage.set_cursor_values({"ssl_pipeline/doctor": str(time.time())})
        return instance.get_runs_count()


def dead_runs(project: Project) -> list[str]:
    """Runs that are recorded as going on and whose process is gone."""
    with in_terminal(project) as instance:
        return [run.run_id for run in dead(instance)]


def failed_runs(project: Project) -> list[str]:
    """Of recipes and jobs whose last run failed, that run and what failed in it, the newest first; empty where nothing ran."""
    if not (project.store.root / "dagster").exists():
        return []
    told, since = [], set[str]()
    with in_terminal(project) as instance:
        for record in instance.get_run_records(limit=RUNS):
            run = record.dagster_run
            names = subjects(run)
            if run.status == dg.DagsterRunStatus.FAILURE and names - since:
                events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event]
                why = "; ".join(what_failed(events)) or "its process was killed"
                told.append(f"{', '.join(sorted(names - since))} ({record.create_timestamp:%F %H:%M}): {why}")
            if run.status != dg.DagsterRunStatus.CANCELED:
                since |= names
    return told


def subjects(run: dg.DagsterRun) -> set[str]:
    """The recipes and datasets that a run is about, or its job."""
    if "recipes" in run.tags:
        return set(run.tags["recipes"].split(","))
    return {key.path[0] for key in run.asset_selection or ()} or {run.job_name}
