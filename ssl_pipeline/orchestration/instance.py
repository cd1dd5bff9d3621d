"""Dagster's own database and logs, kept in the project's store, so that the project's root stays clean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from ssl_pipeline.project import Project

UNCAPTURED = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


def in_terminal(project: Project) -> DagsterInstance:
    """The project's instance for a run in this process. What stages print goes straight to the terminal: captured, as
    Dagster does otherwise, a progress bar finds no terminal to draw on."""
    os.environ.setdefault("DAGSTER_HOME", str(project.root))
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(project.root), overrides=UNCAPTURED))


class ProjectInstance(DagsterInstance):
    """The instance that `dagster.yaml` names: Dagster's usual defaults, but below `store/dagster`.

    A plain `base_dir` in dagster.yaml would be relative to whatever folder a process was started in.
    """

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Mapping[str, Any]:
        return InstanceRef.config_defaults(str(Project(Path(base_dir).resolve()).store.root / "dagster"))
