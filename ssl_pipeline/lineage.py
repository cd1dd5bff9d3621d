"""From a registered version back to everything that made it, and forward again to the same weights."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_pipeline import origins, tracking, training
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretrain import launch
from ssl_pipeline.pretrain.plan import Plan
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.record import mlflow_ui, open_tracker
from ssl_pipeline.store import sha256

WEIGHTS = "encoder.safetensors"
RECIPE = "recipe.json"
"""Beside the registered model: all of the recipe, as it was."""


def trace(project: Project, uri: str) -> dict[str, Any]:
    """What made a version, by name: model, champion (since when, by whom, why), run, recipe, commit, data, weights."""
    tracker = open_tracker(project)
    with tracking.downloaded(tracker, uri) as (version, path):
        weights = sha256(path / "extra_files" / WEIGHTS)
        recipe = json.loads((path / "extra_files" / RECIPE).read_text())
    with tracker.connected() as client:
        standing = tracking.aliases(client, version.name)
    moves = [m for m in tracking.history(tracker, version.name) if m.version == version.version]
    tags, pretrain = version.tags, recipe["pretrain"]
    trained = project.store.get("pretrained_encoder", tags["encoder"])
    begun = trained.summary["made_from"].get("start_from") if trained else None
    return {
        "model": f"{version.name} version {version.version}",
        "aliases": "; ".join(
            f"{m.alias} {'since' if standing.get(m.alias) == version.version else 'was, from'} {m.when[:19]} by {m.who}: {m.why}"
            for m in moves
        )
        or "none",
        "run": f"{version.run_id} ({mlflow_ui()}/{tracker.url(version.run_id)})",
        "recipe": f"{tags['recipe']}: {recipe['pretext']['task']}, {pretrain['epochs']} epochs, seed {pretrain['seed']}",
        **({"goes_on_from": f"encoder {begun}"} if begun else {}),
        "commit": tags["commit"],
        "data": f"{tags['dataset']} {tags['data_digest']}",
        "weights": f"SHA-256 {weights}",
    }


def reproduce(project: Project, uri: str, say: Callable[[str], None]) -> str:
    """Restores the version's data, trains its recipe again and says whether the weights are the same. The project's data and
    registry stay as they are. Raises PipelineError where they differ."""
    tracker = open_tracker(project)
    with tracking.downloaded(tracker, uri) as (version, path):
        registered = path / "extra_files" / WEIGHTS
        recipe = Recipe.model_validate_json((path / "extra_files" / RECIPE).read_text())
        if (now := commit(project.root)) != version.tags["commit"]:
            say(f"note: the code is at {now}, the version was made at {version.tags['commit']}")
        key = version.tags["encoder"]
        trained = project.store.get("pretrained_encoder", key)
        if trained is None:
            raise PipelineError(
                f"{uri}: its training ({key}) is not in the store any more, which says from what it went on"
            )
        data = origins.restored(project, recipe.dataset, version.tags["data_digest"], say)
        how = "in the store already" if data.reused else "restored, every file verified"
        say(f"data        {recipe.dataset} {data.summary['digest']}: {how}")
        pack = origins.prepared(project, recipe, trained)[1]
        with tempfile.TemporaryDirectory() as folder:
            begun = training.begun_from(project, trained)
            plan = training.going_on(project, recipe, begun, pack, say) if begun else Plan()
            plan = replace(plan, accumulate=trained.summary.get("accumulate_used"))
            launch.run(recipe, pack, Path(folder), lambda rows: None, plan, say)
            again = Path(folder, WEIGHTS)
            if sha256(again) == sha256(registered):
                return f"weights     the same, bit for bit: SHA-256 {sha256(again)}"
            raise PipelineError(f"{uri}: the weights differ by {largest_difference(again, registered):.1e} at most")


def largest_difference(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    ours, theirs = load_file(one), load_file(other)
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def commit(root: Path) -> str:
    """The project's git commit, with `+changes` where the work tree differs; `unknown` outside git."""
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"
