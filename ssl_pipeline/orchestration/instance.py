"""Dagster's own database and logs, kept in the project's store, so that the project's root stays clean; where a database
is shared (`SSL_PIPELINE_DATABASE_URL`), runs and events lie there and the logs still here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import ConfigurableClassData

from ssl_pipeline import database
from ssl_pipeline.project import Project

if TYPE_CHECKING:
    from dagster._core.workspace.context import BaseWorkspaceRequestContext

MACHINE = "ssl_pipeline/machine"
"""The run tag that says on which machine a run's processes are."""

SHARED = ConfigurableClassData("ssl_pipeline.orchestration.shared_storage", "SharedStorage", "{}")
UNCAPTURED = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


@contextmanager
def in_terminal(project: Project) -> Iterator[DagsterInstance]:
    """The project's instance for a run in this process. What stages print goes straight to the terminal: captured, as
    Dagster does otherwise, a progress bar finds no terminal to draw on."""
    with instance(project, UNCAPTURED) as opened:
        yield opened


@contextmanager
def instance(project: Project, overrides: Mapping[str, Any] | None = None) -> Iterator[DagsterInstance]:
    """The project's instance. Raises PipelineError where the shared database does not let us in."""
    os.environ.setdefault("DAGSTER_HOME", str(project.root))
    with database.turn("dagster"):  # two processes that create its tables at once break each other
        opened = DagsterInstance.from_ref(InstanceRef.from_dir(str(project.root), overrides=overrides))
    with opened:
        yield opened


def pool(name: str) -> str:
    """A pool of this machine: who shares a database does not wait for another machine's GPU."""
    return f"{name}_{database.machine()}" if database.url() else name


class ProjectInstance(DagsterInstance):
    """The instance that `dagster.yaml` names: Dagster's usual defaults, but below `store/dagster`.

    A plain `base_dir` in dagster.yaml would be relative to whatever folder a process was started in.
    """

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Mapping[str, Any]:
        local = InstanceRef.config_defaults(str(Project(Path(base_dir).resolve()).store.root / "dagster"))
        return {**local, "storage": SHARED} if database.url() else local

    def launch_run(self, run_id: str, workspace: BaseWorkspaceRequestContext) -> DagsterRun:
        self.add_run_tags(run_id, {MACHINE: database.machine()})
        return super().launch_run(run_id, workspace)
