"""Runs recipes through Dagster in this process, recorded in the project's instance as the UI would show them."""

from __future__ import annotations

import logging
import signal
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG
from sqlalchemy.exc import OperationalError

from ssl_pipeline import chain, database, recipe
from ssl_pipeline.orchestration import project_definitions
from ssl_pipeline.orchestration.failures import INTERRUPTED, in_a_line, of_check, root
from ssl_pipeline.orchestration.instance import MACHINE, in_terminal
from ssl_pipeline.orchestration.reaper import reap
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project

Say = Callable[[str], None]

JOB = "ssl_pipeline_run"


def run(
    project: Project,
    datasets: list[recipe.Dataset],
    recipes: list[recipe.Recipe],
    chosen: list[recipe.Recipe],
    to: str,
    say: Say,
    verbose: bool = False,
    made: Callable[[str], object] = lambda stage: None,
) -> None:
    """Materializes the datasets of the chosen recipes and these up to stage `to`, in one Dagster run. `made` hears of each asset,
    as `cats/features`, once it is there.

    One failing recipe does not stop the others. Raises PipelineError with every failure on one line.
    """
    keys = selected(chosen, recipes, to)
    narrator = Narrator(say, {"__".join(key): "/".join(key) for key in keys}, made)
    with warnings.catch_warnings(), explained(project, narrator), in_terminal(project) as instance, interruptible():
        warnings.simplefilter("ignore", (dg.BetaWarning, dg.PreviewWarning))  # type: ignore[arg-type]
        for dead in reap(instance):
            say(f"run {dead[:8]} was killed earlier; marked as failed")
        run_id = str(uuid.uuid4())
        instance.add_event_listener(run_id, narrator)
        job = dg.define_asset_job(JOB, selection=dg.AssetSelection.assets(*keys))
        everything = project_definitions.definitions(datasets, recipes)
        done = (
            dg.Definitions.merge(everything, dg.Definitions(jobs=[job]))
            .resolve_job_def(JOB)
            .execute_in_process(
                run_config={"loggers": {"console": {"config": {"log_level": "DEBUG" if verbose else "CRITICAL"}}}},
                instance=instance,
                raise_on_error=False,
                run_id=run_id,
                # the daemon could not start again what a terminal started
                tags={
                    "recipes": ",".join(r.name for r in chosen)[:200],
                    MACHINE: database.machine(),
                    MAX_RETRIES_TAG: "0",
                },
            )
        )
    if narrator.interrupted:
        raise KeyboardInterrupt
    if narrator.failures or not done.success:
        raise PipelineError("; ".join(narrator.failures) or f"Dagster run {run_id} failed: see it in `ssl-pipeline up`")


def selected(chosen: list[recipe.Recipe], recipes: list[recipe.Recipe], to: str) -> list[list[str]]:
    """The assets of these recipes with their datasets, and a leaderboard where several of one dataset are compared."""
    by_name = {r.name: r for r in recipes}
    keys: list[list[str]] = []

    def add(one: recipe.Recipe, to: str) -> None:
        """Its assets up to `to`, after those of other recipes that they read."""
        stages = chain.stages_of(one, to)
        if one.start_from and "pretrained_encoder" in stages:
            add(by_name[one.start_from], "pretrained_encoder")
        if (about := one.upstream.get("encoder.item_features")) and stages:
            add(by_name[about], "features")
        keys.extend([[one.dataset, "dataset"], *([one.name, stage] for stage in stages)])

    for one in chosen:
        add(one, to)
    evaluated = [r.dataset for r in chosen if set(chain.stages_of(r, to)) & {part.kind for part in r.evaluations}]
    if evaluated:
        keys += [[name, "leaderboard"] for name in sorted(set(evaluated)) if evaluated.count(name) > 1]
    return [list(key) for key in dict.fromkeys(map(tuple, keys))]


class Narrator:
    """Tells a person what happens in a run: a line when a stage starts and one when it ends. Collects what failed."""

    def __init__(self, say: Say, stages: dict[str, str], made: Callable[[str], object]) -> None:
        self.say, self.made = say, made
        self.stages = stages
        """Step key to the stage's title; further steps are checks."""
        self.started: dict[str, float] = {}
        self.failures: list[str] = []
        self.interrupted = False

    def __call__(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            if entry.step_key in self.stages and entry.level == logging.INFO:
                self.say(f"    {entry.user_message}")
            return
        match event.event_type:
            case dg.DagsterEventType.STEP_START:
                self.started[str(event.step_key)] = time.monotonic()
                if title := self.stages.get(str(event.step_key)):
                    self.say(f"{title}: started")
            case dg.DagsterEventType.ASSET_MATERIALIZATION:
                self._made(event)
            case dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                self._checked(event.asset_check_evaluation_data)
            case dg.DagsterEventType.STEP_FAILURE:
                self._failed(event)

    def _made(self, event: dg.DagsterEvent) -> None:
        made = event.step_materialization_data.materialization.metadata.get("made")
        seconds = time.monotonic() - self.started.get(str(event.step_key), time.monotonic())
        self.made(self.stages[str(event.step_key)])
        self.say(f"{self.stages[str(event.step_key)]}: {made.value if made else 'done'} in {seconds:.1f} s")

    def _checked(self, check: dg.AssetCheckEvaluation) -> None:
        if check.passed:
            return
        line = ": ".join(of_check(check))
        if check.severity == dg.AssetCheckSeverity.WARN:
            self.say(f"warning: {line}")
        else:
            self.failures.append(f"{line} (a gate that must hold)")

    def _failed(self, event: dg.DagsterEvent) -> None:
        described, error = root(event)
        if error and error.cls_name == "DagsterAssetCheckFailedError":
            return  # told where the check was evaluated
        if error and error.cls_name in INTERRUPTED:
            self.interrupted = True
            return
        title = self.stages.get(str(event.step_key), str(event.step_key))
        self.failures.append(described or f"{title}: {in_a_line(error)}; --verbose shows where")


@contextmanager
def explained(project: Project, narrator: Narrator) -> Iterator[None]:
    """Where the disk is full, Dagster cannot record so much as that: its database is in the store too."""
    try:
        yield
    except OperationalError as error:
        cure = "free space there or set SSL_PIPELINE_STORE to a larger disk; finished stages are untouched, run again to go on"
        place = project.store.root / "dagster"
        raise PipelineError(
            "; ".join([*narrator.failures, f"Dagster's database in {place}: {error.orig}: {cure}"])
        ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C works even where the shell started this with SIGINT ignored, and TERM is as good as Ctrl-C, so that the
    run is recorded as stopped and training writes its checkpoint."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_term)
