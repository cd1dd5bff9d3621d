"""The chain: every stage as a function, the same for Dagster's assets, the CLI and `run_recipe`.

    dataset -> pretext_labels -> pretrained_encoder -> features -> classification -> registered_model

A stage reads what the one before it wrote, through the store, and returns at once where its content key is known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.evaluate.settings import INTERVAL
from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.record import curve_of, log_metrics, open_run, open_tracker
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.report.tables import Comparison

# imported when a stage runs: loading recipes must not import torch, MLflow or DVC
baselines = late("ssl_pipeline.evaluate.baselines")
card = late("ssl_pipeline.report.card")
evaluation = late("ssl_pipeline.evaluate.classification")
encoders = late("ssl_pipeline.encoders.encoder")
extract = late("ssl_pipeline.features.extract")
ingest = late("ssl_pipeline.ingest")
tables = late("ssl_pipeline.report.tables")
label_tables = late("ssl_pipeline.pretext.labels")
launch = late("ssl_pipeline.pretrain.launch")
packs = late("ssl_pipeline.pretext.pack")
pd = late("pandas")
pictures = late("ssl_pipeline.report.pictures")
versioning = late("ssl_pipeline.versioning")

STAGES = ("dataset", "pretext_labels", "pretrained_encoder", "features", "classification", "registered_model")
LOOP_VERSION = "4"
"""Raise it when the loop, a view or a task would compute other weights from the same recipe."""
HOW = {"processes", "shard", "compile", "checkpoint_seconds", "log_every"}
"""Settings of `pretrain` that say how weights are computed, not which."""
FEATURES_VERSION = "3"
EVALUATION_VERSION = "3"

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
    data = upstream(project, recipe.dataset, "dataset")
    refuse_unlabelled(recipe, data)
    pack = training_pack(project, recipe, data)

    def write(folder: Any) -> dict[str, Any]:
        # what cannot take these images fails now, not when training starts
        encoders.build(recipe.encoder, pack.channels)
        seed = recipe.pretrain.seed
        summary = label_tables.write_table(recipe.pretext, recipe.encoder, pack, seed, folder / "labels.parquet")
        sheet = label_tables.sheet(recipe.pretext, recipe.encoder, pack, seed)
        (folder / "sheet.png").write_bytes(pictures.sheet(sheet, recipe.pretext.columns()))
        return {
            "samples": sum(summary["splits"].values()),
            "pack": pack.path.name,
            "encoder_passes": recipe.pretext.encoder_passes,
            **summary,
            "made_from": {"dataset": data.summary["digest"]},
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
    data = made_from(project, labels, "dataset")
    pack = training_pack(project, recipe, data)
    config = {"pretext": dump(recipe.pretext), "encoder": encoder_config(recipe)}
    config["pretrain"] = recipe.pretrain.model_dump(mode="json", exclude=HOW)
    inputs = {"pretext_labels": labels.key}

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

                summary = launch.run(recipe, pack, folder, follow)
            curve = [curve_of(rows[step]) for step in sorted(rows)]
            (folder / "curves.png").write_bytes(pictures.curves(curve, summary["steps"], summary["collapse_loss"]))
            tracker.log_files(run_id, [folder / "curves.png", labels.path / "sheet.png"], "pictures")
            url = tracker.url(run_id)
        except BaseException:
            tracker.end(run_id, failed=True)
            raise
        tracker.end(run_id)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: whatever failed above can be tried again
        speeds = sorted(row["images_per_second"] for row in curve if "images_per_second" in row)
        waits = [row["data_wait_share"] for row in curve if "data_wait_share" in row]
        return summary | {
            "images_per_second": round(speeds[len(speeds) // 2], 1), "data_wait_share": round(sum(waits) / len(waits), 4),
            "mlflow_run_id": run_id, "mlflow_url": url, "tracking_uri": project.tracking_uri,
            "made_from": {"dataset": data.summary["digest"], "pretext_labels": labels.key},
        }  # fmt: skip

    stage = project.store.build("pretrained_encoder", config, inputs, LOOP_VERSION, write, resumable=True, on_wait=say)
    return finish(project, recipe, stage)


def features(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder + dataset -> embeddings of every split, and their quality without labels."""
    encoder = upstream(project, recipe.name, "pretrained_encoder")
    data = made_from(project, encoder, "dataset")
    pack = training_pack(project, recipe, data)

    def write(folder: Any) -> dict[str, Any]:
        from ssl_pipeline.pretrain.compute import pick_device

        module = encoders.load(encoder.path).to(pick_device(recipe.pretrain.device))
        summary = extract.write(module, pack, folder, recipe.pretrain)
        queries, retrieved, correct = extract.neighbours(folder, pack)
        (folder / "neighbours.png").write_bytes(pictures.neighbours(queries, retrieved, correct))
        quality = {f"features/{name}": summary[name] for name in ("rankme", "alignment", "uniformity")}
        log_metrics(project, recipe, encoder, data, quality, folder)
        return summary | {"made_from": {"dataset": data.summary["digest"], "pretrained_encoder": encoder.key}}

    inputs = {"encoder": encoder.key, "dataset": data.summary["digest"]}
    return finish(project, recipe, project.store.build("features", {}, inputs, FEATURES_VERSION, write, on_wait=say))


def classification(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """features -> kNN and linear probe at few labels and all, beside the baselines."""
    settings = next((e for e in recipe.evaluations if e.kind == "classification"), None)
    if settings is None:
        raise PipelineError(
            f"recipe {recipe.name!r}: no classification among its evaluations; add one or use --to features"
        )
    extracted = upstream(project, recipe.name, "features")
    data, encoder = (made_from(project, extracted, name) for name in ("dataset", "pretrained_encoder"))
    refuse_unlabelled(recipe, data)
    pack = training_pack(project, recipe, data)

    def baseline(folder: Any) -> dict[str, Any]:
        rows = baselines.all_baselines(
            recipe, pack, evaluation.labels_of(pack), settings, lambda what: say(f"baseline: {what}")
        )
        pd.DataFrame(rows).to_parquet(folder / "results.parquet")
        return {"methods": sorted({row["method"] for row in rows})}

    def write(folder: Any) -> dict[str, Any]:
        labels = evaluation.labels_of(pack)
        own = {split: extract.read(extracted.path, split) for split in packs.SPLITS}
        rows, matrix = evaluation.probe_methods(recipe.name, [own], labels, settings)
        results = pd.concat(
            [pd.DataFrame(rows), pd.read_parquet(reference.path / "results.parquet")], ignore_index=True
        )
        results.to_parquet(folder / "results.parquet")
        summary = evaluation.summarize(results, len(labels.rows["test"]))
        (folder / "confusion.png").write_bytes(pictures.confusion(matrix, labels.names))
        (folder / "efficiency.png").write_bytes(pictures.efficiency(efficiency_table(summary)))
        own_metrics = summary.pop(recipe.name)
        means = {name: cell["mean"] for name, cell in own_metrics.items()}
        log_metrics(project, recipe, encoder, data, means, folder)
        return {
            "metrics": own_metrics,
            "baselines": summary,
            "classes": labels.names,
            "test_samples": len(labels.rows["test"]),
            "made_from": {"dataset": data.summary["digest"], "features": extracted.key, "baselines": reference.key},
        }

    version, store, digest = EVALUATION_VERSION, project.store, data.summary["digest"]
    fresh = dump(recipe.encoder) | {"pretrained": False}
    shared = {"encoder": fresh, "evaluation": dump(settings), "precision": recipe.pretrain.precision}
    reference = store.build("baselines", shared, {"dataset": digest}, version, baseline, on_wait=say)
    inputs = {"features": extracted.key, "baselines": reference.key}
    config = {"name": recipe.name, "evaluation": dump(settings)}
    return finish(project, recipe, store.build("classification", config, inputs, version, write, on_wait=say))


def registered_model(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder -> a version in MLflow's registry once every gate holds; champion when it beats the one before."""
    from ssl_pipeline.registration import register

    return finish(project, recipe, register(project, recipe, open_tracker(project), say))


def leaderboard(project: Project, dataset_name: str, recipes: list[Recipe], say: Say = print) -> Stage:
    """All recipes of a dataset that were evaluated, in one table beside the baselines."""
    evaluated = {r.name: upstream(project, r.name, "classification") for r in recipes}

    def write(folder: Any) -> dict[str, Any]:
        markdown = "\n\n".join(table.markdown() for table in comparisons(project, dataset_name, recipes))
        (folder / "leaderboard.md").write_text(markdown)
        table: dict[str, list[Any]] = {}
        for recipe in recipes:
            summary = evaluated[recipe.name].summary
            methods = {recipe.name: summary["metrics"]} | summary["baselines"]
            table |= efficiency_table(methods)
        (folder / "efficiency.png").write_bytes(pictures.efficiency(table))
        return {"recipes": len(evaluated), "table": markdown}

    inputs = {name: stage.key for name, stage in evaluated.items()}
    stage = project.store.build("leaderboard", {"dataset": dataset_name}, inputs, "2", write, on_wait=say)
    project.store.set_current(dataset_name, stage)
    return stage


def comparisons(project: Project, dataset_name: str, recipes: list[Recipe]) -> list[Comparison]:
    """Those of these recipes on the dataset that were evaluated, beside their baselines: one table for all that share an
    encoder and a protocol, and with them the baselines."""
    found: dict[str, list[tuple[Recipe, dict[str, Any]]]] = {}
    for recipe in recipes:
        stage = project.store.current(recipe.name, "classification")
        if recipe.dataset == dataset_name and stage:
            found.setdefault(stage.summary["made_from"]["baselines"], []).append((recipe, stage.summary))
    answer = []
    for together in found.values():
        rows: list[Any] = []
        for recipe, summary in together:
            trained = project.store.current(recipe.name, "pretrained_encoder")
            cost = trained.summary if trained else {}
            metrics, seconds, passes = summary["metrics"], cost.get("train_seconds"), cost.get("encoder_passes")
            rows += tables.rows_of(recipe.name, recipe.pretext.task, metrics, seconds, passes)
        for method, metrics in summary["baselines"].items():
            rows += tables.rows_of(method, method, metrics)
        images = f"{summary['test_samples']:,} test images"
        answer.append(tables.comparison(rows, f"{dataset_name}: test accuracy in percent, {images}, {INTERVAL}"))
    return answer


RUN: dict[str, Callable[[Project, Recipe, Say], Stage]] = {
    "pretext_labels": pretext_labels,
    "pretrained_encoder": pretrained_encoder,
    "features": features,
    "classification": classification,
    "registered_model": registered_model,
}


def stages_of(recipe: Recipe, to: str = "registered_model") -> list[str]:
    """The stages after the dataset that this recipe has, up to and including `to`. Raises PipelineError for no such stage."""
    if to not in STAGES:
        raise PipelineError(f"no stage {to!r}: choose one of {', '.join(STAGES)}")
    evaluated = {e.kind for e in recipe.evaluations}
    own = [s for s in STAGES[1 : STAGES.index(to) + 1] if s != "classification" or s in evaluated]
    return own


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
        done[stage] = RUN[stage](project, recipe, say)
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
        found = project.store.get(name, key)
    if found:
        return found
    raise PipelineError(
        f"{stage.name} {stage.key} was made from {name} {key}, which is not in the store any more: run the recipe again"
    )


def finish(project: Project, recipe: Recipe, stage: Stage) -> Stage:
    project.store.set_current(recipe.name, stage)
    return stage


def training_pack(project: Project, recipe: Recipe, data: Stage) -> Pack:
    channels = data.summary["channels"] if recipe.encoder.channels == "auto" else recipe.encoder.channels
    return packs.open_pack(packs.build(project.store, data, recipe.encoder.image_size, channels))


def refuse_unlabelled(recipe: Recipe, data: Stage) -> None:
    """Says before training, not after, that an evaluation lacks the labels it needs."""
    if not recipe.evaluations:
        return
    labelled, samples, classes = (data.summary[k] for k in ("labelled", "samples", "classes"))
    cure = "set evaluations: [] and promote: null in the recipe"
    if not labelled:
        raise PipelineError(
            f"dataset {recipe.dataset!r}: {samples} of {samples} labels are null; classification needs labels: "
            f"name a label column, use class folders, or {cure}"
        )
    if len(classes) < 2:
        raise PipelineError(
            f"dataset {recipe.dataset!r}: one class only ({classes[0]!r}); classification needs two: {cure}"
        )


def efficiency_table(summary: dict[str, Any]) -> dict[str, list[Any]]:
    """method -> (shots, mean, low, high) of its linear probe (or of the supervised model), fewest labels first."""
    table: dict[str, list[Any]] = {}
    for method, metrics in summary.items():
        for name, cell in metrics.items():
            _, probe, _, shots = name.split("/")
            if probe in ("linear", "supervised"):
                count = shots if shots == "all" else int(shots)
                table.setdefault(method, []).append((count, cell["mean"], cell["low"], cell["high"]))
    return table


def encoder_config(recipe: Recipe) -> dict[str, Any]:
    """The recipe's encoder, with the content of a local weights file: another file under the same name is another encoder."""
    config = dump(recipe.encoder)
    if isinstance(recipe.encoder.pretrained, str):
        path = Path(recipe.encoder.pretrained).expanduser()
        try:
            with open(path, "rb") as file:
                config["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PipelineError(f"encoder.pretrained {path}: cannot be read: {error.strerror}") from error
    return config


def dump(part: Any) -> dict[str, Any]:
    return part.model_dump(mode="json")
