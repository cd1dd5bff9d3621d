"""The chain: every stage as a function, the same for Dagster's assets, the CLI and `run_recipe`.

    dataset -> pretext_labels -> pretrained_encoder -> features -> evaluations -> registered_model

A stage reads what the one before it wrote, through the store, and returns at once where its content key is known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.evaluate.any_evaluation import KINDS as EVALUATIONS
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.record import curve_of, log_metrics, open_run, open_tracker
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack

# imported when a stage runs: loading recipes must not import torch, MLflow or DVC
encoders = late("ssl_pipeline.encoders.encoder")
extract = late("ssl_pipeline.features.extract")
ingest = late("ssl_pipeline.ingest")
measures = late("ssl_pipeline.features.measures")
label_tables = late("ssl_pipeline.pretext.labels")
launch = late("ssl_pipeline.pretrain.launch")
packs = late("ssl_pipeline.pretext.pack")
paired = late("ssl_pipeline.evaluate.paired")
pictures = late("ssl_pipeline.report.pictures")
efficiency = late("ssl_pipeline.evaluate.efficiency")
versioning = late("ssl_pipeline.versioning")

STAGES = ("dataset", "pretext_labels", "pretrained_encoder", "features", *EVALUATIONS, "registered_model")
LOOP_VERSION = "5"
"""Raise it when the loop, a view or a task would compute other weights from the same recipe."""
HOW = {"processes", "shard", "compile", "checkpoint_seconds", "log_every"}
"""Settings of `pretrain` that say how weights are computed, not which."""
FEATURES_VERSION = "5"
EVALUATION_VERSION = "5"

Say = Callable[[str], None]


def dataset(project: Project, config: Dataset, say: Say = print) -> Stage:
    """source -> dataset: ingested (or an earlier version restored), then committed to DVC."""
    if config.version:
        stage = restored(project, config, say)
    else:
        stage = ingest.build(config, project.store, versioning.digest, project.root, say)
    versioning.commit(project.root, config.name, stage.path / "tree")
    project.store.set_current(config.name, stage)
    return stage


def restored(project: Project, config: Dataset, say: Say) -> Stage:
    """The dataset version that the recipe pins, from DVC's cache or remote."""
    assert config.version

    def write(folder: Any) -> dict[str, Any]:
        versioning.restore(project.root, config.name, config.version, folder / "tree")
        described = json.loads((folder / "tree" / "dataset.json").read_text())
        return described | {"digest": config.version, "reasons": {}, "quarantined_fraction": 0.0}

    return project.store.build("dataset", {"version": config.version}, {}, "1", write, on_wait=say)


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
    from ssl_pipeline.pretrain.progress import bar

    labels = upstream(project, recipe.name, "pretext_labels")
    data, pack, origin = prepared(project, recipe, labels)
    config = {"pretext": dump(recipe.pretext), "encoder": encoder_config(recipe)}
    config["pretrain"] = recipe.pretrain.model_dump(mode="json", exclude=HOW)
    inputs = {"pretext_labels": labels.key}
    start = upstream(project, recipe.start_from, "pretrained_encoder") if recipe.start_from else None
    if start:
        inputs["start_from"] = start.key

    def write(folder: Any) -> dict[str, Any]:
        tracker = open_tracker(project)
        run_id = open_run(
            project, recipe, project.store.key("pretrained_encoder", config, inputs, LOOP_VERSION), data, tracker
        )
        rows: dict[int, dict[str, float]] = {}
        try:
            with bar(recipe.name) as show:

                def follow(new: list[dict[str, float]]) -> None:
                    for row in new:  # a resumed run repeats steps: the later row counts
                        rows[int(row["step"])] = rows.get(int(row["step"]), {}) | row
                    tracker.log_curve(run_id, [curve_of(row) for row in new])
                    show(new[-1])

                summary = launch.run(recipe, pack, folder, follow, start.path if start else None)
            curve = [curve_of(rows[step]) for step in sorted(rows)]
            (folder / "curves.png").write_bytes(pictures.curves(curve, summary["steps"], summary["collapse_loss"]))
            tracker.log_files(run_id, [folder / "curves.png", labels.path / "sheet.png"], "pictures")
            url = tracker.url(run_id)
        except BaseException:
            tracker.end(run_id, failed=True)
            raise
        tracker.end(run_id)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: whatever failed above can be tried again
        speeds = sorted(row["samples_per_second"] for row in curve if "samples_per_second" in row)
        waits = [row["data_wait_share"] for row in curve if "data_wait_share" in row]
        return summary | {
            "samples_per_second": round(speeds[len(speeds) // 2], 1), "data_wait_share": round(sum(waits) / len(waits), 4),
            "mlflow_run_id": run_id, "mlflow_url": url, "tracking_uri": project.tracking_place,
            "made_from": origin | {"pretext_labels": labels.key},
        }  # fmt: skip

    stage = project.store.build("pretrained_encoder", config, inputs, LOOP_VERSION, write, resumable=True, on_wait=say)
    return finish(project, recipe, stage)


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
        own = paired.write(folder, {recipe.name: result.metrics} | result.controls, settings.compared())
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
    config = {"name": recipe.name, "evaluation": dump(settings)}
    return finish(project, recipe, store.build(kind, config, inputs, version, write, on_wait=say))


def registered_model(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder -> a version in MLflow's registry once every gate holds; champion when it beats the one before."""
    from ssl_pipeline.registration import register

    return finish(project, recipe, register(project, recipe, open_tracker(project), say))


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


def upstream(project: Project, owner: str, stage: str) -> Stage:
    """The stage that this one reads. Raises PipelineError where it has not been made."""
    if found := project.store.current(owner, stage):
        return found
    what = f"dataset {owner!r} has" if stage == "dataset" else f"{stage} of recipe {owner!r} has"
    raise PipelineError(
        f"{what} not been built: materialize {owner}/{stage} first, or `ssl-pipeline run` the whole chain"
    )


def made_from(project: Project, stage: Stage, name: str) -> Stage:
    """The stage `name` that this one was computed from, whatever its owner uses by now; a dataset goes by its digest."""
    key = stage.summary["made_from"][name]
    if name == "dataset":
        found = next((one for one in project.store.finished(name) if one.summary["digest"] == key), None)
    else:
        found = project.store.get("features" if name == "item_features" else name, key)
    if found:
        return found
    raise PipelineError(
        f"{stage.name} {stage.key} was made from {name} {key}, which is not in the store any more: run the recipe again"
    )


def finish(project: Project, recipe: Recipe, stage: Stage) -> Stage:
    project.store.set_current(recipe.name, stage)
    return stage


def prepared(project: Project, recipe: Recipe, before: Stage | None = None) -> tuple[Stage, Pack, dict[str, str]]:
    """The dataset and its pack, as the stage `before` was made from them or as they are by now; and what a stage notes of them
    in `made_from`."""
    data = made_from(project, before, "dataset") if before else upstream(project, recipe.dataset, "dataset")
    origin = {"dataset": data.summary["digest"]}
    described = None
    if about := recipe.upstream.get("encoder.item_features"):
        described = made_from(project, before, "item_features") if before else upstream(project, about, "features")
        origin["item_features"] = described.key
    return data, packs.open_pack(packs.build(project.store, data, recipe.encoder, described)), origin


def refuse_unlabelled(recipe: Recipe, data: Stage) -> None:
    """Says before training, not after, that an evaluation lacks the labels it needs."""
    if any(e.kind == "detection" for e in recipe.evaluations) and "objects" not in data.summary:
        raise PipelineError(
            f"dataset {recipe.dataset!r}: its images have no boxes, which detection needs: use a source of kind coco or voc, or "
            "leave detection out of the recipe's evaluations"
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
                with open(file, "rb") as opened:
                    digests[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"encoder.pretrained {path}: cannot be read: {error.strerror}") from error
    return digests


def dump(part: Any) -> dict[str, Any]:
    return part.model_dump(mode="json")
