"""What failed in a run, in sentences, as the terminal and the hook tell it."""

from __future__ import annotations

from typing import Any

import dagster as dg

INTERRUPTED = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")


def root(event: dg.DagsterEvent) -> tuple[str | None, Any]:
    """Of a step that failed: what a stage said of it, and the error at the bottom, either of which may be missing."""
    failure = event.step_failure_data
    error = failure.error
    while error and error.cause:
        error = error.cause
    return failure.user_failure_data.description if failure.user_failure_data else None, error


def in_a_line(error: Any) -> str:
    return " ".join(error.message.split()) if error else "failed"


def of_check(check: dg.AssetCheckEvaluation) -> tuple[str, str]:
    """Its asset, and what it says of it."""
    return "/".join(check.asset_key.path), f"{check.check_name}: {check.description}"


def what_failed(events: list[dg.DagsterEvent]) -> dict[str, str]:
    """Why, by asset or step: steps that failed, and gates that do not hold. What a person stopped did not fail."""
    told = {}
    for event in events:
        if event.is_step_failure:
            said, error = root(event)
            # a gate is told where it was evaluated
            if not (error and error.cls_name in (*INTERRUPTED, "DagsterAssetCheckFailedError")):
                told[place(event)] = said or in_a_line(error)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                told.update([of_check(check)])
    return told


def stopped(events: list[dg.DagsterEvent]) -> bool:
    """Whether a person did it."""
    errors = [root(event)[1] for event in events if event.is_step_failure]
    return any(error and error.cls_name in INTERRUPTED for error in errors)


def left_undone(events: list[dg.DagsterEvent]) -> list[str]:
    """Assets or steps that began and did not end."""
    begun = [place(e) for e in events if e.event_type == dg.DagsterEventType.STEP_START]
    return [one for one in begun if one not in {place(e) for e in events if e.is_step_success or e.is_step_failure}]


def place(event: dg.DagsterEvent) -> str:
    """The step's asset, as `cats/features`; a step's own name where it makes none."""
    return str(event.step_key).replace("__", "/")
