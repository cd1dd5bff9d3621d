"""The chain: every stage as a function, the same for Dagster's assets, the CLI and `run_recipe`.

    dataset -> pretext_labels -> pretrained_encoder -> features -> classification -> registered_model

A stage reads what the one before it wrote, through the store, and returns at once where its content key is known.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ssl_pipeline.evaluate.settings import INTERVAL
from ssl_pipeline.part import PipelineError, late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.tracking import Tracker

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
tracking = late("ssl_pipeline.tracking")
versioning = late("ssl_pipeline.versioning")

STAGES = ("dataset", "pretext_labels", "pretrained_encoder", "features", "classification", "registered_model")
LOOP_VERSION = "1"
"""Raise it when the loop, a view or a task would compute other weights from the same recipe."""
FEATURES_VERSION = "1"
EVALUATION_VERSION = "1"

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
        }

    config = {"pretext": dump(recipe.pretext), "encoder": dump(recipe.encoder), "seed": recipe.pretrain.seed}
    inputs = {"dataset": data.summary["digest"]}
    return finish(
        project, recipe, project.store.build("pretext_labels", config, inputs, LOOP_VERSION, write, on_wait=say)
    )


def pretrained_encoder(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """pretext labels -> encoder: the training loop in a process of its own, its curves to MLflow as they come."""
    from ssl_pipeline.pretrain.progress import bar

    data, labels = upstream(project, recipe.dataset, "dataset"), upstream(project, recipe.name, "pretext_labels")
    pack = training_pack(project, recipe, data)
    config = {"pretext": dump(recipe.pretext), "encoder": dump(recipe.encoder)}
    config["pretrain"] = recipe.pretrain.model_dump(mode="json", exclude={"checkpoint_seconds", "log_every"})
    inputs = {"pretext_labels": labels.key}

    def write(folder: Any) -> dict[str, Any]:
        started, tracker = time.time(), open_tracker(project)
        key = project.store.key("pretrained_encoder", config, inputs, LOOP_VERSION)
        run_id = tracker.run(recipe.dataset, recipe.name, key, run_tags(recipe), flat(recipe.model_dump(mode="json")))
        tracker.log_dataset(run_id, recipe.dataset, data.summary["digest"], str(project.data / recipe.dataset))
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
        except BaseException:
            tracker.end(run_id, failed=True)
            raise
        tracker.end(run_id)
        for leftover in (folder / "checkpoints").glob("*"):
            leftover.unlink()
        speeds = sorted(row["images_per_second"] for row in curve if "images_per_second" in row)
        waits = [row["data_wait_share"] for row in curve if "data_wait_share" in row]
        return summary | {
            "images_per_second": round(speeds[len(speeds) // 2], 1), "data_wait_share": round(sum(waits) / len(waits), 4),
            "train_seconds": round(time.time() - started, 1), "mlflow_run_id": run_id, "mlflow_url": tracker.url(run_id),
        }  # fmt: skip

    stage = project.store.build("pretrained_encoder", config, inputs, LOOP_VERSION, write, resumable=True, on_wait=say)
    return finish(project, recipe, stage)


def features(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder + dataset -> embeddings of every split, and their quality without labels."""
    data, encoder = upstream(project, recipe.dataset, "dataset"), upstream(project, recipe.name, "pretrained_encoder")
    pack = training_pack(project, recipe, data)

    def write(folder: Any) -> dict[str, Any]:
        from ssl_pipeline.pretrain.loop import pick_device

        module = encoders.load(encoder.path).to(pick_device(recipe.pretrain.device))
        return extract.write(module, pack, folder)

    inputs = {"encoder": encoder.key, "dataset": data.summary["digest"]}
    stage = project.store.build("features", {}, inputs, FEATURES_VERSION, write, on_wait=say)
    quality = {f"features/{name}": stage.summary[name] for name in ("rankme", "alignment", "uniformity")}
    log_metrics(project, encoder, quality, stage)
    return finish(project, recipe, stage)


def classification(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """features -> kNN and linear probe at few labels and all, beside the baselines."""
    settings = next((e for e in recipe.evaluations if e.kind == "classification"), None)
    if settings is None:
        raise PipelineError(
            f"recipe {recipe.name!r}: no classification among its evaluations; add one or use --to features"
        )
    data, encoder = upstream(project, recipe.dataset, "dataset"), upstream(project, recipe.name, "pretrained_encoder")
    extracted = upstream(project, recipe.name, "features")
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
        (folder / "efficiency.png").write_bytes(pictures.efficiency(efficiency_table(summary, settings.shots)))
        own_metrics = summary.pop(recipe.name)
        return {
            "metrics": own_metrics,
            "baselines": summary,
            "classes": labels.names,
            "test_samples": len(labels.rows["test"]),
        }

    version, store, digest = EVALUATION_VERSION, project.store, data.summary["digest"]
    shared = {"encoder": dump(recipe.encoder), "evaluation": dump(settings), "precision": recipe.pretrain.precision}
    reference = store.build("baselines", shared, {"dataset": digest}, version, baseline, on_wait=say)
    inputs = {"features": extracted.key, "baselines": reference.key}
    config = {"name": recipe.name, "evaluation": dump(settings)}
    stage = store.build("classification", config, inputs, version, write, on_wait=say)
    log_metrics(project, encoder, {name: cell["mean"] for name, cell in stage.summary["metrics"].items()}, stage)
    return finish(project, recipe, stage)


def registered_model(project: Project, recipe: Recipe, say: Say = print) -> Stage:
    """encoder -> a version in MLflow's registry once every gate holds; champion when it beats the one before."""
    from ssl_pipeline.registration import register

    return finish(project, recipe, register(project, recipe, open_tracker(project), say))


def leaderboard(project: Project, dataset_name: str, recipes: list[Recipe], say: Say = print) -> Stage:
    """All recipes of a dataset that were evaluated, in one table beside the baselines."""
    evaluated = {r.name: (r, upstream(project, r.name, "classification")) for r in recipes}
    costs = {name: upstream(project, name, "pretrained_encoder").summary for name in evaluated}

    def write(folder: Any) -> dict[str, Any]:
        rows: list[Any] = []
        table: dict[str, list[Any]] = {}
        for name, (recipe, stage) in evaluated.items():
            summary, cost = stage.summary, costs[name]
            rows += tables.rows_of(
                name, recipe.pretext.task, summary["metrics"], cost["train_seconds"], cost["encoder_passes"]
            )
            table |= efficiency_table({name: summary["metrics"]} | summary["baselines"], recipe.evaluations[0].shots)
            if name == next(iter(evaluated)):
                for method, metrics in summary["baselines"].items():
                    rows += tables.rows_of(method, method, metrics)
        markdown = tables.comparison(rows, f"{dataset_name}: test accuracy in percent, {INTERVAL}").markdown()
        (folder / "leaderboard.md").write_text(markdown)
        (folder / "efficiency.png").write_bytes(pictures.efficiency(table))
        return {"recipes": len(evaluated), "table": markdown}

    inputs = {name: stage.key for name, (_, stage) in evaluated.items()}
    stage = project.store.build("leaderboard", {"dataset": dataset_name}, inputs, "1", write, on_wait=say)
    project.store.set_current(dataset_name, stage)
    return stage


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


def open_tracker(project: Project) -> Tracker:
    return tracking.Tracker(project.tracking_uri, project.artifacts)


def log_metrics(project: Project, encoder: Stage, metrics: dict[str, float], stage: Stage) -> None:
    """Adds a stage's numbers and pictures to the run that trained the encoder."""
    if stage.reused:
        return
    tracker, run_id = open_tracker(project), encoder.summary["mlflow_run_id"]
    tracker.log_metrics(run_id, metrics)
    tracker.log_files(run_id, sorted(stage.path.glob("*.png")), "pictures")


def efficiency_table(summary: dict[str, Any], shots: Iterable[Any]) -> dict[str, list[Any]]:
    """method -> (shots, mean, low, high) of its linear probe (or of the supervised model)."""
    table: dict[str, list[Any]] = {}
    for method, metrics in summary.items():
        probe = "supervised" if method == "supervised" else "linear"
        for count in shots:
            cell = metrics[f"classification/{probe}/accuracy/{count}"]
            table.setdefault(method, []).append((count, cell["mean"], cell["low"], cell["high"]))
    return table


def curve_of(row: dict[str, float]) -> dict[str, float]:
    """What of a row is worth a curve."""
    return {name: value for name, value in row.items() if name not in ("time", "total_steps")}


def run_tags(recipe: Recipe) -> dict[str, str]:
    return {"recipe": recipe.name, "dataset": recipe.dataset, "pretext": recipe.pretext.task, "modality": "image"}


def dump(part: Any) -> dict[str, Any]:
    return part.model_dump(mode="json")


def flat(value: Any, path: str = "") -> dict[str, str]:
    """A recipe as MLflow's parameters: `pretrain.epochs` -> `20`."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in flat(part, f"{path}.{name}" if path else name).items()}
    return {path: str(value)}
