"""Whether Dagster's instance can be read and written, which of its runs are dead, and what failed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG
from sqlalchemy.exc import SQLAlchemyError

from ssl_pipeline.orchestration.failures import left_undone, stopped, what_failed
from ssl_pipeline.orchestration.instance import in_terminal
from ssl_pipeline.orchestration.reaper import dead
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project

DAYS = 14


def runs(project: Project) -> int:
    """How many runs there are; reads the database and writes a line of its own into it. Raises whatever is in the way."""
    with in_terminal(project) as instance:
        instance.run_storage.set_cursor_values({"ssl_pipeline/doctor": str(time.time())})
        return instance.get_runs_count()


def dead_runs(project: Project) -> list[str]:
    """Runs that are recorded as going on and whose process is gone."""
    with in_terminal(project) as instance:
        return [run.run_id for run in dead(instance)]


def failed(project: Project) -> list[str]:
    """What failed in the last DAYS and was not made since, a line an asset or job, the newest first; empty where nothing ran.
    Raises PipelineError where Dagster's records cannot be read."""
    if not (project.store.root / "dagster").exists():
        return []
    told, since = dict[str, str](), set[str]()
    try:
        with in_terminal(project) as instance:
            lately = dg.RunsFilter(created_after=datetime.now(UTC) - timedelta(days=DAYS))
            for record in instance.get_run_records(lately):
                run = record.dagster_run
                if run.status == dg.DagsterRunStatus.SUCCESS:
                    since.add(run.job_name)
                if run.status != dg.DagsterRunStatus.FAILURE or run.tags.get(WILL_RETRY_TAG) == "true":
                    continue
                for what, why in reasons(instance, run).items():
                    asset = dg.AssetKey(what.split("/"))
                    made = instance.get_latest_materialization_event(asset) if "/" in what else None
                    if what not in since and not (made and made.timestamp > (record.end_time or 0)):
                        told.setdefault(what, f"{what} ({record.create_timestamp.astimezone():%F %H:%M}): {why}")
    except SQLAlchemyError as error:
        raise PipelineError(f"Dagster's records cannot be read: {' '.join(str(error).split())[:300]}") from error
    return list(told.values())


def reasons(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, str]:
    """Why a run failed, by asset, or by its job where no asset is at fault."""
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    if stopped(events):
        return {}
    found = what_failed(events) or dict.fromkeys(left_undone(events), "its process was killed")
    if not found:
        messages = [str(event.message) for event in events if event.event_type == dg.DagsterEventType.RUN_FAILURE]
        found = {run.job_name: " ".join(messages) or "failed"}
    return {what if "/" in what else run.job_name: why for what, why in found.items()}
