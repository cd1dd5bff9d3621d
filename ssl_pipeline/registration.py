"""encoder -> registered model: the gates are asked again, a version is made once, and the better model reigns."""

from __future__ import annotations

import subprocess
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline import gates, versioning
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.features import extract
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext import pack as packs
from ssl_pipeline.record import run_of
from ssl_pipeline.report.card import model_card
from ssl_pipeline.tracking import registry

if TYPE_CHECKING:
    from ssl_pipeline.chain import Say
    from ssl_pipeline.project import Project
    from ssl_pipeline.recipe import Recipe
    from ssl_pipeline.store import Stage
    from ssl_pipeline.tracking import Tracker

CODE_VERSION = "2"
READS = ("tokenizer.json", "vocabulary.parquet")
"""Of the pack: what turns a text, or an item's identifier, into the numbers that a model takes."""


def register(project: Project, recipe: Recipe, tracker: Tracker, say: Say) -> Stage:
    """The stage `registered_model`. Raises PipelineError naming each gate that does not hold; nothing is registered then."""
    from ssl_pipeline.chain import made_from, prepared, upstream

    store = project.store
    measured: dict[str, Stage] = {e.kind: upstream(project, recipe.name, e.kind) for e in recipe.evaluations}
    evaluated = measured.get(recipe.promote.evaluation) if recipe.promote else next(iter(measured.values()), None)
    features = made_from(project, evaluated, "features") if evaluated else upstream(project, recipe.name, "features")
    data, encoder = (made_from(project, features, name) for name in ("dataset", "pretrained_encoder"))
    digest = data.summary["digest"]
    checked = gates.all_gates(
        recipe, digest, versioning.pinned(project.root, recipe.dataset), encoder, features, evaluated
    )
    if failed := gates.failures(checked):
        raise PipelineError(
            f"recipe {recipe.name!r} is not registered: " + "; ".join(f"{f['gate']}: {f['detail']}" for f in failed)
        )

    def write(folder: Path) -> dict[str, Any]:
        key = store.key("registered_model", config, inputs, CODE_VERSION)
        run_id = run_of(project, recipe, encoder, data, tracker)
        tags = {
            "dataset": recipe.dataset, "data_digest": digest, "recipe": recipe.name, "pretext": recipe.pretext.task,
            "modality": recipe.encoder.kind, "commit": commit(project.root), "evaluation": evaluated.key if evaluated else "none",
        }  # fmt: skip
        value = None
        if recipe.promote and evaluated:
            value = evaluated.summary["metrics"][recipe.promote.metric]["mean"]
            tags |= {"metric": recipe.promote.metric, "metric_value": f"{value:.6f}"}
        module = encoders.load(encoder.path)
        description = model_card(
            recipe=recipe.model_dump(mode="json"), dataset=data.summary, encoder=encoder.summary, features=features.summary,
            evaluations={e.kind: (measured[e.kind].summary, e.caption(measured[e.kind].summary)) for e in recipe.evaluations},
            commit=tags["commit"], uri=f"models:/{recipe.name}@champion", takes=DeployedEncoder(module).example(2).numpy(),
        )  # fmt: skip
        (folder / "model_card.md").write_text(description)
        kept = {"encoder.safetensors", "encoder.json", encoders.HEAD, *module.extra_files}
        files = [*(path for path in sorted(encoder.path.iterdir()) if path.name in kept), folder / "model_card.md"]
        pack = prepared(project, recipe, features)[1]
        files += [path for name in READS if (path := pack.path / name).exists()]
        version = registry.register(tracker, run_id, recipe.name, key, module, files, tags, description)
        with store.lock(f"champion-{recipe.name}", say), tracker.lock(f"champion-{recipe.name}"):
            reason = why_promote(project, recipe, tracker, data, key, value)
            if reason.startswith("promoted"):
                registry.promote(tracker, recipe.name, version, reason)
        say(f"model {recipe.name!r} version {version}: {reason}")
        return {
            "name": recipe.name, "version": version, "uri": f"models:/{recipe.name}/{version}",
            "champion": reason.startswith("promoted"), "reason": reason, "tracking_uri": project.tracking_place,
            "run_id": run_id, "gates": [vars(gate) for gate in checked],
        }  # fmt: skip

    config: dict[str, Any] = {"name": recipe.name, "tracking_uri": project.tracking_place}
    config["promote"] = recipe.promote.model_dump(mode="json") if recipe.promote else None
    inputs = {
        "encoder": encoder.key,
        "features": features.key,
        "evaluations": ",".join(stage.key for stage in measured.values()) or "none",
    }
    return store.build("registered_model", config, inputs, CODE_VERSION, write, on_wait=say)


def why_promote(project: Project, recipe: Recipe, tracker: Tracker, data: Stage, key: str, value: float | None) -> str:
    """A sentence that begins with `promoted` or `not promoted`. A champion that was measured on other data, or by
    another protocol, is measured again on this one."""
    reigning = registry.champion(tracker, recipe.name)
    if reigning is None:
        return "promoted: the first version"
    if reigning.tags.get("content_key") == key:
        return "promoted: it is the champion already"
    if value is None or recipe.promote is None:
        return f"not promoted: without labels to compare by, version {reigning.version} stays until someone decides"
    metric = recipe.promote.metric
    old = champion_value(project, recipe, tracker, data, reigning.version)
    comparison = f"{metric} {value:.4f} against {old:.4f} of version {reigning.version} on the same data"
    return f"promoted: {comparison}" if value > old else f"not promoted: {comparison}"


def champion_value(project: Project, recipe: Recipe, tracker: Tracker, data: Stage, version: int) -> float:
    """The promoted metric of a registered version, on this dataset by this recipe's protocol."""
    assert recipe.promote
    settings = next(e for e in recipe.evaluations if e.kind == recipe.promote.evaluation)
    module = import_module(f"ssl_pipeline.evaluate.{settings.kind}")
    with registry.downloaded(tracker, f"models:/{recipe.name}/{version}") as (_, path):
        folder = path / "extra_files"
        champion = encoders.load(folder)
        pack = packs.open_pack(packs.build(project.store, data, encoders.settings_in(folder)))
        features = {split: extract.embed(champion, pack.samples(split), recipe.pretrain) for split in SPLITS}
        return module.own(recipe, pack, champion, features, folder, settings).metrics[recipe.promote.metric]["mean"]


def commit(root: Path) -> str:
    """The project's git commit, with `+changes` where the work tree differs; `unknown` outside git."""
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"
