"""What failed in a run, in sentences, as the terminal and the hook tell it."""

from __future__ import annotations

from typing import Any

import dagster as dg


def root(event: dg.DagsterEvent) -> tuple[str | None, Any]:
    """Of a step that failed: what a stage said of it, and the error at the bottom, either of which may be missing."""
    failure = event.step_failure_data
    error = failure.error
    while error and error.cause:
        error = error.cause
    return failure.user_failure_data.description if failure.user_failure_data else None, error


def in_a_line(error: Any) -> str:
    return " ".join(error.message.split()) if error else "failed"


def of_check(check: dg.AssetCheckEvaluation) -> str:
    return f"{'/'.join(check.asset_key.path)}: {check.check_name}: {check.description}"


def what_failed(events: list[dg.DagsterEvent]) -> list[str]:
    """Steps that failed and gates that do not hold."""
    told = []
    for event in events:
        if event.is_step_failure:
            said, error = root(event)
            line = f"{event.step_key}: {said or in_a_line(error)}"
            if "DagsterAssetCheckFailedError" not in line:  # told where the check was evaluated
                told.append(line)
    checks = [
        e.asset_check_evaluation_data for e in events if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return told + [of_check(one) for one in checks if not one.passed and one.severity == dg.AssetCheckSeverity.ERROR]
