"""Which version serves, as a person decides it, at a terminal or in Dagster."""

from __future__ import annotations

from ssl_pipeline import tracking
from ssl_pipeline.asked import actor
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker


def approve(project: Project, name: str, version: int | None, why: str) -> str:
    """Makes `version`, or the challenger, the champion; returns what happened in a sentence."""
    tracker = open_tracker(project)
    with tracker.connected() as client:
        standing = tracking.aliases(client, name)
    chosen = version or standing.get("challenger")
    if not standing:
        tracking.history(tracker, name)  # says so where there is no such model
    if chosen is None:
        raise PipelineError(f"model {name!r} has no challenger: name a version with --version")
    tracking.promote(tracker, name, chosen, why, actor()[0])
    before = standing.get("champion")
    return f"model {name!r}: version {chosen} is the champion" + (
        f", version {before} was" if before not in (None, chosen) else ""
    )


def roll_back(project: Project, name: str, to: int | None, why: str) -> str:
    """Makes the champion before this one, or version `to`, the champion; returns what happened in a sentence."""
    return f"model {name!r}: version {tracking.rollback(open_tracker(project), name, why, actor()[0], to)} is the champion again"
