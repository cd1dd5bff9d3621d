"""What Dagster loads."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from ssl_pipeline.orchestration import defs_folder, project_definitions
from ssl_pipeline.project import Project


@dg.definitions
def defs() -> dg.Definitions:
    if defs_folder.has_own(project := Project.find()):  # recipes by `ssl-pipeline new` in a folder that is no package
        return project_definitions.definitions(*defs_folder.load_all(project))
    return project_definitions.load(Path(__file__).parent)
