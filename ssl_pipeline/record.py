"""What the chain writes into MLflow: one run an encoder, with its settings, its data, its numbers and its pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ssl_pipeline import database
from ssl_pipeline.asked import dagster_links, dagster_tags
from ssl_pipeline.part import Away, PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.tracking import Tracker

tracking = late("ssl_pipeline.tracking")

NOTE = "mlflow.note.content"
"""The tag whose Markdown MLflow's page of a run shows as its description."""

RETRY_SECONDS = 10
PATIENCE_SECONDS = 600
"""How long MLflow may be away where something has been computed."""
AT_FIRST_SECONDS = 120
"""Where nothing has: for a server that is being started again."""
T = TypeVar("T")


def open_tracker(project: Project) -> Tracker:
    return tracking.Tracker(project.tracking_uri, project.artifacts)


def mlflow_ui() -> str:
    """Where a person's browser finds MLflow: the tracking server, or what `ssl-pipeline up` serves."""
    place = os.environ.get("MLFLOW_TRACKING_URI", "")
    served = os.environ.get("SSL_PIPELINE_MLFLOW_UI", "http://127.0.0.1:5000")
    return database.without_password(place if place.startswith("http") else served).rstrip("/")


def open_run(project: Project, recipe: Recipe, key: str, data: Stage, tracker: Tracker) -> str:
    """The MLflow run of the encoder under this content key, found or made."""
    tags = run_tags(recipe) | dagster_tags()
    if made_by := dagster_links(f"{recipe.name}/pretrained_encoder"):
        tags[NOTE] = f"Trained as {made_by}."
    run_id = tracker.run(recipe.dataset, recipe.name, key, tags, flat(recipe.model_dump(mode="json")))
    tracker.log_dataset(run_id, recipe.dataset, data.summary["digest"], str(project.data / recipe.dataset))
    return run_id


class Curves:
    """The rows of a training as they come, to its MLflow run. Where MLflow is away they are kept, and sent when it is back."""

    def __init__(self, project: Project, recipe: Recipe, key: str, data: Stage, say: Callable[[str], None]) -> None:
        self.project, self.say = project, say
        self.tracker = open_tracker(project)
        self.run_id = patiently(lambda: open_run(project, recipe, key, data, self.tracker), say, AT_FIRST_SECONDS)
        self.seen: dict[int, dict[str, float]] = {}
        self.waiting: list[dict[str, float]] = []
        self.next_try = 0.0

    def add(self, rows: list[dict[str, float]]) -> None:
        for row in rows:  # a resumed run repeats steps: the later row counts
            self.seen[int(row["step"])] = self.seen.get(int(row["step"]), {}) | row
        self.waiting += [curve_of(row) | {"time": row["time"]} for row in rows]
        if time.monotonic() < self.next_try:
            return
        try:
            self.tracker.log_curve(self.run_id, self.waiting)
            self.waiting = []
        except PipelineError as error:
            if not self.next_try:
                self.say(f"training goes on, its curves are kept and sent later: {error}")
            self.next_try = time.monotonic() + RETRY_SECONDS

    def rows(self) -> list[dict[str, float]]:
        return [curve_of(self.seen[step]) for step in sorted(self.seen)]

    def finish(self, files: list[Path]) -> None:
        """Sends what waits, and pictures, and closes the run. Raises PipelineError where MLflow stays away for PATIENCE_SECONDS."""

        def send() -> None:
            self.tracker.log_curve(self.run_id, self.waiting)
            self.tracker.log_files(self.run_id, files, "pictures")
            self.tracker.end(self.run_id)

        patiently(send, self.say)

    def fail(self) -> None:
        """Closes the run as failed, where MLflow can be reached."""
        with suppress(PipelineError):
            self.tracker.end(self.run_id, failed=True)

    def where(self) -> dict[str, str]:
        """What a summary says of the run."""
        where = {"mlflow_run_id": self.run_id, "tracking_uri": self.project.tracking_place}
        return where | {"mlflow_url": self.tracker.url(self.run_id)}


def run_of(project: Project, recipe: Recipe, encoder: Stage, data: Stage, tracker: Tracker) -> str:
    """The run that trained the encoder, or one that stands for it where another MLflow is used since."""
    if encoder.summary["tracking_uri"] == project.tracking_place:
        return encoder.summary["mlflow_run_id"]
    run_id = open_run(project, recipe, encoder.key, data, tracker)
    tracker.end(run_id)
    return run_id


def log_metrics(
    project: Project, recipe: Recipe, encoder: Stage, data: Stage, metrics: dict[str, float], folder: Path
) -> None:
    """Adds a stage's numbers, and the pictures in its folder (under the stage's name), to the run that trained the encoder."""
    tracker = open_tracker(project)

    def send() -> None:
        run_id = run_of(project, recipe, encoder, data, tracker)
        tracker.log_metrics(run_id, metrics)
        tracker.log_files(run_id, sorted(folder.glob("*.png")), f"pictures/{folder.parent.name}")

    patiently(send, print)


def patiently(ask: Callable[[], T], say: Callable[[str], None], seconds: float = PATIENCE_SECONDS) -> T:
    """Nothing fails because MLflow is away for a while: `ask` is called again until it is back. Raises Away after so many seconds
    of that, and every other error at once."""
    until = 0.0
    while True:
        try:
            return ask()
        except Away as error:
            until = until or time.monotonic() + seconds
            if time.monotonic() > until:
                raise
            say(f"waiting for MLflow, {until - time.monotonic():.0f} s at most: {error}")
            time.sleep(RETRY_SECONDS)


def curve_of(row: dict[str, float]) -> dict[str, float]:
    """What of a row is worth a curve."""
    return {name: value for name, value in row.items() if name not in ("time", "total_steps")}


def run_tags(recipe: Recipe) -> dict[str, str]:
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "pretext": recipe.pretext.task,
        "modality": recipe.encoder.kind,
    }


def flat(value: Any, path: str = "") -> dict[str, str]:
    """A recipe as MLflow's parameters: `pretrain.epochs` -> `20`."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in flat(part, f"{path}.{name}" if path else name).items()}
    return {path: str(value)}
