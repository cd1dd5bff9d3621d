"""Who asked for what is being done: a person in Python, or a Dagster run, which then leads back to its pages."""

from __future__ import annotations

import getpass
import os
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """The Dagster run that asked, and for what reason; both empty where a person called from Python."""

    run_id: str = ""
    reason: str = ""


ASKED: ContextVar[Asked] = ContextVar("asked", default=Asked())  # noqa: B039  # it is frozen


def actor() -> tuple[str, str]:
    """Who acts, for the history of aliases, and the reason."""
    asked = ASKED.get()
    by = f"Dagster run {asked.run_id[:8]}" if asked.run_id else ""
    return ", ".join(filter(None, (getpass.getuser(), by))), asked.reason


def dagster_ui() -> str:
    """Where a person's browser finds Dagster: what `ssl-pipeline up` serves."""
    return os.environ.get("SSL_PIPELINE_DAGSTER_UI", "http://127.0.0.1:3000").rstrip("/")


def dagster_links(asset: str) -> str | None:
    """Markdown that leads from MLflow to the Dagster run and to the asset that it made; None where no run asked."""
    run_id = ASKED.get().run_id
    if not run_id:
        return None
    ui = dagster_ui()
    return f"[asset {asset}]({ui}/assets/{asset}) in Dagster, by its [run {run_id[:8]}]({ui}/runs/{run_id})"


def dagster_tags() -> dict[str, str]:
    """What a run or a version in MLflow is tagged with, to be found by its Dagster run; empty where no run asked."""
    run_id = ASKED.get().run_id
    return {"dagster_run": run_id} if run_id else {}
