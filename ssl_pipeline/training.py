"""The stage `pretrained_encoder`: what decides its weights, from what they begin, and the training in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.origins import Say, dataset_of, dump, made_from, prepared, restored, upstream
from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.record import AT_FIRST_SECONDS, Curves, open_tracker, patiently
from ssl_pipeline.store import Stage, sha256

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.pretrain.plan import Plan

launch = late("ssl_pipeline.pretrain.launch")
pictures = late("ssl_pipeline.report.pictures")
shards = late("ssl_pipeline.ingest.shards")
tracking = late("ssl_pipeline.tracking")

LOOP_VERSION = "6"
"""Raise it when the loop, a view or a task would compute other weights from the same recipe."""
HOW = {"processes", "shard", "compile", "checkpoint_seconds", "log_every"}
"""Settings of `pretrain` that say how weights are computed, not which."""


def train(
    project: Project, recipe: Recipe, labels: Stage, begun: Stage | None, say: Say, steps: int | None = None
) -> Stage:
    """An encoder that goes on from `begun`, or a fresh one; trained for `steps` instead of the recipe's epochs."""
    from ssl_pipeline.pretrain.progress import bar

    data, pack, origin = prepared(project, recipe, labels)
    config: dict[str, Any] = training(recipe)
    inputs = {"pretext_labels": labels.key}
    if begun:
        inputs["start_from"] = begun.key
    if steps:
        config["steps"] = steps

    def write(folder: Any) -> dict[str, Any]:
        key = project.store.key("pretrained_encoder", config, inputs, LOOP_VERSION)
        curves = Curves(project, recipe, key, data, say)
        try:
            with bar(recipe.name) as show:

                def follow(new: list[dict[str, float]]) -> None:
                    curves.add(new)
                    show(new[-1])

                plan = launch.Plan(steps=steps) if begun is None else going_on(project, recipe, begun, pack, say)
                summary = launch.run(recipe, pack, folder, follow, plan, say)
            curve = curves.rows()
            (folder / "curves.png").write_bytes(pictures.curves(curve, summary["steps"], summary["collapse_loss"]))
            curves.finish([folder / "curves.png", labels.path / "sheet.png"])
        except BaseException:
            curves.fail()
            raise
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: whatever failed above can be tried again
        speeds = sorted(row["samples_per_second"] for row in curve if "samples_per_second" in row)
        waits = [row["data_wait_share"] for row in curve if "data_wait_share" in row]
        return summary | {
            "samples_per_second": round(speeds[len(speeds) // 2], 1), "data_wait_share": round(sum(waits) / len(waits), 4),
            **curves.where(), "made_from": origin | inputs,
        }  # fmt: skip

    return project.store.build("pretrained_encoder", config, inputs, LOOP_VERSION, write, resumable=True, on_wait=say)


def training(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the weights."""
    config: dict[str, Any] = {"pretext": dump(recipe.pretext), "encoder": encoder_config(recipe)}
    config["pretrain"] = recipe.pretrain.model_dump(mode="json", exclude=HOW)
    if recipe.retrain.warm_start:
        config["replay"] = recipe.retrain.warm_start.replay
    return config


def beginning(project: Project, recipe: Recipe, labels: Stage, say: Say) -> Stage | None:
    """The encoder to go on from: another recipe's, or with a warm start the champion's. What was trained on this data already
    keeps its beginning, although it is the champion now: else each run would train once more."""
    if recipe.start_from:
        return upstream(project, recipe.start_from, "pretrained_encoder")
    if not recipe.retrain.warm_start:
        return None
    reigning = patiently(lambda: tracking.champion(open_tracker(project), recipe.name), say, AT_FIRST_SECONDS)
    champion = project.store.get("pretrained_encoder", reigning.tags["encoder"]) if reigning else None
    config = training(recipe)  # reads local weights
    for known in filter(None, (project.store.current(recipe.name, "pretrained_encoder"), champion)):
        if known.config == config and known.summary["made_from"]["pretext_labels"] == labels.key:
            return begun_from(project, known)
    if reigning and not champion:
        say(
            f"note: the encoder of the champion, version {reigning.version}, is not in this store: a fresh one is trained"
        )
    if reigning and champion:
        say(f"a warm start: goes on from the champion, version {reigning.version}")
    return champion


def begun_from(project: Project, trained: Stage) -> Stage | None:
    """What an encoder went on from."""
    return made_from(project, trained, "start_from") if "start_from" in trained.summary["made_from"] else None


def going_on(project: Project, recipe: Recipe, begun: Stage, pack: Pack, say: Say) -> Plan:
    """With a warm start, the samples that the encoder has not seen are told from those to replay."""
    if not recipe.retrain.warm_start:
        return launch.Plan(begun.path)
    digest = begun.summary["made_from"]["dataset"]
    seen = dataset_of(project, digest) or restored(project, recipe.dataset, digest, say)
    known = {row["sample_id"] for row in shards.rows(seen.path / "tree", "train", ["sample_id"])}
    return launch.Plan(begun.path, (~pack.index("train")["sample_id"].isin(known)).to_numpy().nonzero()[0])


def encoder_config(recipe: Recipe) -> dict[str, Any]:
    """The recipe's encoder, with the content of local weights: other files under the same name are another encoder."""
    config = dump(recipe.encoder)
    towers = [config, *(part for part in config.values() if isinstance(part, dict))]
    for tower in towers:
        if isinstance(tower.get("pretrained"), str):
            tower["weights"] = content_of(Path(tower["pretrained"]).expanduser())
    return config


def content_of(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file in a folder."""
    digests = {}
    try:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digests[file.name] = sha256(file)
    except OSError as error:
        raise PipelineError(f"encoder.pretrained {path}: cannot be read: {error.strerror}") from error
    return digests
