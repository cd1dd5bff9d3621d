"""Whether Dagster's instance can be read and written, and which of its runs are dead."""

from __future__ import annotations

import time

from ssl_pipeline.orchestration.instance import in_terminal
from ssl_pipeline.orchestration.reaper import dead
from ssl_pipeline.project import Project


def runs(project: Project) -> int:
    """How many runs there are; reads the database and writes a line of its own into it. Raises whatever is in the way."""
    with in_terminal(project) as instance:
        instance.run_storage.set_cursor_values({"ssl_pipeline/doctor": str(time.time())})
        return instance.get_runs_count()


def dead_runs(project: Project) -> list[str]:
    """Runs that are recorded as going on and whose process is gone."""
    with in_terminal(project) as instance:
        return [run.run_id for run in dead(instance)]
