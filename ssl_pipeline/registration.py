"""encoder -> registered model: the gates are asked again, a version is made once, and the better model reigns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline import gates, promotion, versioning
from ssl_pipeline.asked import actor, dagster_links, dagster_tags
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.lineage import RECIPE, commit
from ssl_pipeline.notify import notify
from ssl_pipeline.origins import Say, made_from, prepared, upstream
from ssl_pipeline.part import PipelineError
from ssl_pipeline.promotion import Evidence
from ssl_pipeline.record import run_of
from ssl_pipeline.report.card import model_card
from ssl_pipeline.store import write_json
from ssl_pipeline.tracking import registry

if TYPE_CHECKING:
    from ssl_pipeline.project import Project
    from ssl_pipeline.recipe import Recipe
    from ssl_pipeline.store import Stage
    from ssl_pipeline.tracking import Tracker

CODE_VERSION = "3"
READS = ("tokenizer.json", "vocabulary.parquet")
"""Of the pack: what turns a text, or an item's identifier, into the numbers that a model takes."""


def register(project: Project, recipe: Recipe, tracker: Tracker, say: Say) -> Stage:
    """The stage `registered_model`. Raises PipelineError naming each gate that does not hold; nothing is registered then."""
    store = project.store
    measured: dict[str, Stage] = {e.kind: upstream(project, recipe.name, e.kind) for e in recipe.evaluations}
    evaluated = measured.get(recipe.promote.evaluation) if recipe.promote else None
    first = evaluated or next(iter(measured.values()), None)
    features = made_from(project, first, "features") if first else upstream(project, recipe.name, "features")
    data, encoder = (made_from(project, features, name) for name in ("dataset", "pretrained_encoder"))
    digest, evidence = data.summary["digest"], Evidence(data, features, evaluated)
    pinned, held = versioning.pinned(project.root, recipe.dataset), versioning.holds(project.root, digest)
    checked = gates.all_gates(recipe, gates.data_pinned(digest, pinned, held), encoder, features, measured)
    if failed := gates.failures(checked):
        raise PipelineError(
            f"recipe {recipe.name!r} is not registered: " + "; ".join(f"{f['gate']}: {f['detail']}" for f in failed)
        )

    def write(folder: Path) -> dict[str, Any]:
        key = store.key("registered_model", config, inputs, CODE_VERSION)
        run_id = run_of(project, recipe, encoder, data, tracker)
        tags = {
            "dataset": recipe.dataset, "data_digest": digest, "recipe": recipe.name, "pretext": recipe.pretext.task,
            "encoder": encoder.key,
            "modality": recipe.encoder.kind, "commit": commit(project.root), "evaluation": first.key if first else "none",
        } | dagster_tags()  # fmt: skip
        if recipe.promote:
            value = promotion.measured(evidence, recipe.name, recipe.promote.metric)["mean"]
            tags |= {"metric": recipe.promote.metric, "metric_value": f"{value:.6f}"}
        module = encoders.load(encoder.path)
        card = model_card(
            recipe=recipe.model_dump(mode="json"), dataset=data.summary, encoder=encoder.summary, features=features.summary,
            evaluations={e.kind: (measured[e.kind].summary, e.caption(measured[e.kind].summary)) for e in recipe.evaluations},
            commit=tags["commit"], made_by=dagster_links(f"{recipe.name}/registered_model"),
            uri=f"models:/{recipe.name}@champion", takes=DeployedEncoder(module).example(2).numpy(),
        )  # fmt: skip
        (folder / "model_card.md").write_text(card)
        description = card.partition("\n\n")[
            2
        ]  # MLflow's page has a heading of its own, and its list shows the first line
        write_json(folder / RECIPE, recipe.model_dump(mode="json"))
        kept = {"encoder.safetensors", "encoder.json", encoders.HEAD, *module.extra_files}
        files = [path for path in sorted(encoder.path.iterdir()) if path.name in kept]
        files += [folder / "model_card.md", folder / RECIPE]
        pack = prepared(project, recipe, features)[1]
        files += [path for name in READS if (path := pack.path / name).exists()]
        version = registry.register(tracker, run_id, recipe.name, key, module, files, tags, description)
        page = tracker.url(run_id)
        decided = promotion.promote(project, recipe, tracker, version, evidence, *actor())
        say(f"model {recipe.name!r} version {version}: {decided.why}")
        notify("promoted" if decided.promoted else "not promoted", decided.why, model=recipe.name, version=version)
        return {
            "name": recipe.name, "version": version, "uri": f"models:/{recipe.name}/{version}",
            "champion": decided.promoted, "reason": decided.why, "tracking_uri": project.tracking_place,
            "run_id": run_id, "mlflow_url": page, "gates": [vars(gate) for gate in checked],
            "made_from": {"dataset": digest, "pretrained_encoder": encoder.key, "features": features.key}
            | {kind: stage.key for kind, stage in measured.items()},
        }  # fmt: skip

    config: dict[str, Any] = {"name": recipe.name, "tracking_uri": project.tracking_place}
    config["promote"] = recipe.promote.model_dump(mode="json") if recipe.promote else None
    inputs = {
        "encoder": encoder.key,
        "features": features.key,
        "evaluations": ",".join(stage.key for stage in measured.values()) or "none",
    }
    return store.build("registered_model", config, inputs, CODE_VERSION, write, on_wait=say)
