"""What the chain writes into MLflow: one run an encoder, with its settings, its data, its numbers and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.part import late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.tracking import Tracker

tracking = late("ssl_pipeline.tracking")


def open_tracker(project: Project) -> Tracker:
    return tracking.Tracker(project.tracking_uri, project.artifacts)


def open_run(project: Project, recipe: Recipe, key: str, data: Stage, tracker: Tracker) -> str:
    """The MLflow run of the encoder under this content key, found or made."""
    run_id = tracker.run(recipe.dataset, recipe.name, key, run_tags(recipe), flat(recipe.model_dump(mode="json")))
    tracker.log_dataset(run_id, recipe.dataset, data.summary["digest"], str(project.data / recipe.dataset))
    return run_id


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
    run_id = run_of(project, recipe, encoder, data, tracker)
    tracker.log_metrics(run_id, metrics)
    tracker.log_files(run_id, sorted(folder.glob("*.png")), f"pictures/{folder.parent.name}")


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
