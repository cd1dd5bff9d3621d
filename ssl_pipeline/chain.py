"""The chain: every stage as a function, the same for Dagster's assets, the CLI and `run_recipe`.

    dataset -> pretext_labels -> pretrained_encoder -> features -> evaluations -> registered_model

A stage reads what the one before it wrote, through the store, and returns at once where its content key is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssl_pipeline.evaluate.any_evaluation import KINDS as EVALUATIONS
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.origins import Say, dump, finish, made_from, prepared, restored, upstream
from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.record import AT_FIRST_SECONDS, log_metrics, open_tracker, patiently
from ssl_pipeline.store import Stage
from ssl_pipeline.training import LOOP_VERSION, beginning, begun_from, encoder_config, train

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack

# imported when a stage runs: loading recipes must not import torch, MLflow or DVC
encoders = late("ssl_pipeline.encoders.encoder")
extract = late("ssl_pipeline.features.extract")
ingest = late("ssl_pipeline.ingest")
measures = late("ssl_pipeline.features.measures")
measuring = late("ssl_pipeline.evaluate.measured")
label_tables = late("ssl_pipeline.pretext.labels")
packs = late("ssl_pipeline.pretext.pack")
paired = late("ssl_pipeline.evaluate.paired")
pictures = late("ssl_pipeline.report.pictures")
efficiency = late("ssl_pipeline.evaluate.efficiency")
tracking = late("ssl_pipeline.tracking")
versioning = late("ssl_pipeline.versioning")

STAGES = ("dataset", "pretext_labels", "pretrained_encoder", "features", *EVALUATIONS, "registered_model")
FEATURES_VERSION = "5"
ANEW = "anew, as many steps"
"""The control beside a warm start."""
EVALUATION_VERSION = "7"


def dataset(project: Project, config: Dataset, say: Say = print) -> Stage:
    """source -> dataset: ingested (or an earlier version restored), then committed to DVC."""
    if config.version:
        stage = restored(project, config.name, config.version, say)
    else:
        stage = ingest.build(config, project.store, versioning.digest, project.root, say)
    versioning.commit(project.root, config.name, stage.path / "tree")
    project.store.set_current(config.name, stage)
    return stage


def pretext_labels(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """dataset -> pretext labels: the packed images, a label table, and a sheet that shows what the encoder is asked."""
    data, pack, origin = prepared(project, recipe)
    refuse_unlabelled(recipe, data)

    def write(folder: Any) -> dict[str, Any]:
        # what cannot take these samples fails now, not when training starts
        encoder = encoders.build(recipe.encoder, pack.given)
        summary = label_tables.write_table(recipe, pack, folder / "labels.parquet")
        (folder / "sheet.png").write_bytes(pictures.sheet(*label_tables.sheet(recipe, encoder, pack)))
        return {
            "samples": sum(summary["splits"].values()),
            "pack": pack.path.name,
            "encoder_passes": recipe.pretext.encoder_passes,
            **summary,
            "made_from": origin,
        }

    config = {"pretext": dump(recipe.pretext), "encoder": encoder_config(recipe), "seed": recipe.pretrain.seed}
    inputs = {"dataset": data.summary["digest"]}
    return finish(
        project, recipe, project.store.build("pretext_labels", config, inputs, LOOP_VERSION, write, on_wait=say)
    )


def pretrained_encoder(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """pretext labels -> encoder: the training loop in a process of its own, its curves to MLflow as they come."""
    labels = upstream(project, recipe.name, "pretext_labels")
    return finish(project, recipe, train(project, recipe, labels, beginning(project, recipe, labels, say), say))


def features(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder + dataset -> embeddings of every split, and their quality without labels."""
    encoder = upstream(project, recipe.name, "pretrained_encoder")
    data, pack, origin = prepared(project, recipe, encoder)

    def write(folder: Any) -> dict[str, Any]:
        from ssl_pipeline.pretrain.compute import pick_device

        module = encoders.load(encoder.path).to(pick_device(recipe.pretrain.device))
        summary = extract.write(module, pack, folder, recipe.pretrain, recipe.encoder.kind)
        queries, retrieved, correct = extract.neighbours(folder, pack, module)
        (folder / "neighbours.png").write_bytes(pictures.neighbours(queries, retrieved, correct))
        quality = {f"features/{name}": summary[name] for name in measures.MEASURES if name in summary}
        log_metrics(project, recipe, encoder, data, quality, folder)
        return summary | {"made_from": origin | {"pretrained_encoder": encoder.key}}

    inputs = {"encoder": encoder.key, "dataset": data.summary["digest"]}
    return finish(project, recipe, project.store.build("features", {}, inputs, FEATURES_VERSION, write, on_wait=say))


def evaluation(project: Project, recipe: Recipe, kind: str, say: Say = print) -> Stage:
    """features or encoder -> one evaluation's metrics, beside the baselines."""
    settings = next((e for e in recipe.evaluations if e.kind == kind), None)
    if settings is None:
        raise PipelineError(f"recipe {recipe.name!r}: no {kind} among its evaluations; add one or use --to features")
    extracted = upstream(project, recipe.name, "features")
    data, pack, origin = prepared(project, recipe, extracted)
    encoder = made_from(project, extracted, "pretrained_encoder")
    refuse_unlabelled(recipe, data)
    module = import_module(f"ssl_pipeline.evaluate.{kind}")

    def baselines(folder: Any) -> dict[str, Any]:
        found = module.baselines(recipe, pack, settings, lambda what: say(f"baseline: {what}"))
        return {"methods": paired.write(folder, found, settings.compared())}

    def write(folder: Any) -> dict[str, Any]:
        from ssl_pipeline.pretrain.compute import pick_device

        features = {split: extract.read(extracted.path, split) for split in SPLITS}
        network = encoders.load(encoder.path).to(pick_device(recipe.pretrain.device))
        result = module.own(recipe, pack, network, features, encoder.path, settings)
        if beside:
            result.controls[ANEW] = anew(project, recipe, encoder, pack, settings, say)
        # of all metrics: which one promotes is decided when the model is registered
        own = paired.write(folder, {recipe.name: result.metrics} | result.controls)
        methods, labels = own | reference.summary["methods"], result.facts.get("labels_a_class", {})
        metrics, others = methods[recipe.name], {name: found for name, found in methods.items() if name != recipe.name}
        saved = efficiency.labels_saved(metrics, others.get("supervised", {}), labels)
        drawn = result.pictures | (
            {"efficiency": ("efficiency", table)} if (table := efficiency.efficiency_table(methods, labels)) else {}
        )
        drawn |= module.compared(methods) if hasattr(module, "compared") else {}
        for name, (picture, *what) in drawn.items():
            (folder / f"{name}.png").write_bytes(getattr(pictures, picture)(*what))
        means = {name: cell["mean"] for name, cell in metrics.items()}
        log_metrics(project, recipe, encoder, data, means, folder)
        return {
            "metrics": metrics,
            "baselines": others,
            "controls": list(result.controls),
            **result.facts,
            **({"labels_saved": saved, "labels_saved_say": efficiency.said(saved)} if saved else {}),
            "made_from": origin | {"features": extracted.key, "baselines": reference.key},
        }

    version, store = EVALUATION_VERSION, project.store
    fresh = dump(recipe.encoder.without_weights())
    shared = {"encoder": fresh, "evaluation": dump(settings), "precision": recipe.pretrain.precision}
    reference = store.build("baselines", shared, origin, version, baselines, on_wait=say)
    inputs = {"features": extracted.key, "baselines": reference.key}
    config: dict[str, Any] = {"name": recipe.name, "evaluation": dump(settings)}
    if beside := bool(recipe.retrain.warm_start and recipe.retrain.warm_start.compare and begun_from(project, encoder)):
        config["beside"] = ANEW
    return finish(project, recipe, store.build(kind, config, inputs, version, write, on_wait=say))


def anew(project: Project, recipe: Recipe, encoder: Stage, pack: Pack, settings: Any, say: Say) -> Any:
    """The metrics of a fresh encoder that was trained on all data for as many steps as this one since its warm start."""
    from ssl_pipeline.pretrain.compute import pick_device

    labels = made_from(project, encoder, "pretext_labels")
    fresh = train(project, recipe, labels, None, say, encoder.summary["steps"])
    network = encoders.load(fresh.path).to(pick_device(recipe.pretrain.device))
    return measuring.measured(recipe, pack, network, fresh.path, settings)


def registered_model(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder -> a version in MLflow's registry once every gate holds; champion when it beats the one before."""
    from ssl_pipeline.registration import register

    # asked again, it finds the version that it made, and where the alias stands
    return finish(project, recipe, patiently(lambda: register(project, recipe, open_tracker(project), say), say))


def embeddings(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """registered model + dataset -> the champion's embedding of every sample there is now: batch scoring."""
    from ssl_pipeline.pretrain.compute import pick_device

    tracker = open_tracker(project)
    champion = patiently(lambda: tracking.champion(tracker, recipe.name), say, AT_FIRST_SECONDS)
    if champion is None:
        raise PipelineError(
            f"model {recipe.name!r} has no champion: run the recipe, or `ssl-pipeline promote {recipe.name}`"
        )
    data, config = upstream(project, recipe.dataset, "dataset"), {"name": recipe.name, "version": champion.version}

    def write(folder: Any) -> dict[str, Any]:
        with tracking.downloaded(tracker, f"models:/{recipe.name}/{champion.version}") as (_, path):
            weights = path / "extra_files"
            encoder = encoders.load(weights).to(pick_device(recipe.pretrain.device))
            about = recipe.upstream.get("encoder.item_features")
            described = upstream(project, about, "features") if about else None
            pack = packs.open_pack(packs.build(project.store, data, encoders.settings_in(weights), described))
            encoders.refuse_other_facts(weights, pack.facts)
            samples = extract.write_embeddings(encoder, pack, folder / "embeddings.parquet", recipe.pretrain)
        return {
            "samples": samples, "dim": encoder.dim, "model": f"models:/{recipe.name}/{champion.version}",
            "made_from": {"dataset": data.summary["digest"], "registered_model": champion.tags["content_key"]},
        }  # fmt: skip

    inputs = {"dataset": data.summary["digest"], "model": champion.tags["content_key"]}
    return finish(
        project, recipe, project.store.build("embeddings", config, inputs, FEATURES_VERSION, write, on_wait=say)
    )


RUN: dict[str, Callable[..., Stage]] = {
    "pretext_labels": pretext_labels,
    "pretrained_encoder": pretrained_encoder,
    "features": features,
    **{kind: partial(evaluation, kind=kind) for kind in EVALUATIONS},
    "registered_model": registered_model,
}


def stages_of(recipe: Recipe, to: str = "registered_model") -> list[str]:
    """The stages after the dataset that this recipe has, up to and including `to`. Raises PipelineError for no such stage."""
    if to not in STAGES:
        raise PipelineError(f"no stage {to!r}: choose one of {', '.join(STAGES)}")
    evaluated = {e.kind for e in recipe.evaluations}
    if to in EVALUATIONS and to not in evaluated:
        raise PipelineError(f"recipe {recipe.name!r}: no {to} among its evaluations; add it, or use --to features")
    return [s for s in STAGES[1 : STAGES.index(to) + 1] if s not in EVALUATIONS or s in evaluated]


def run_recipe(
    recipe: Recipe, dataset_config: Dataset | None = None, project: Project | None = None, to: str = "registered_model",
    say: Say = print,
) -> dict[str, Stage]:  # fmt: skip
    """Runs the chain without Dagster and returns its stages by name; what is there already is reused.

    `dataset_config` may be left out where the dataset was built before. Raises PipelineError.
    """
    project = project or Project.find()
    done = {}
    if dataset_config:
        done["dataset"] = dataset(project, dataset_config, say)
    for stage in stages_of(recipe, to):
        done[stage] = RUN[stage](project, recipe, say=say)
    return done


def refuse_unlabelled(recipe: Recipe, data: Stage) -> None:
    """Says before training, not after, that an evaluation lacks the labels it needs."""
    for part in recipe.evaluations:
        if part.needs_in_data and part.needs_in_data[0] not in data.summary:
            raise PipelineError(
                f"dataset {recipe.dataset!r}: {part.needs_in_data[1]}, or leave {part.kind} out of the recipe's evaluations"
            )
    needing = next((e.kind for e in recipe.evaluations if e.needs_labels), None)
    if needing is None:
        return
    labelled, samples, classes = (data.summary[k] for k in ("labelled", "samples", "classes"))
    cure = "set evaluations: [] and promote: null in the recipe"
    if not labelled:
        raise PipelineError(
            f"dataset {recipe.dataset!r}: {samples} of {samples} labels are null; {needing} needs labels: "
            f"name a label column, use class folders, or {cure}"
        )
    if len(classes) < 2:
        raise PipelineError(f"dataset {recipe.dataset!r}: one class only ({classes[0]!r}); {needing} needs two: {cure}")
