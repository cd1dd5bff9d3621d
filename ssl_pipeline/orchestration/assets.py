"""The chain as Dagster shows it: one asset a stage. A body says which stage runs, on what; the work is `chain.py`'s."""

# no `from __future__ import annotations` here: Dagster reads the type of `context` as it stands

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from ssl_pipeline import chain, recipe
from ssl_pipeline import leaderboard as leaderboards
from ssl_pipeline.asked import ASKED, Asked
from ssl_pipeline.evaluate.any_evaluation import KINDS as EVALUATIONS
from ssl_pipeline.evaluate.settings import EvaluationPart
from ssl_pipeline.orchestration import instance, metadata
from ssl_pipeline.part import Part, PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.store import Stage

SLICES: dict[str, Any] = {
    "pretext_labels": {"encoder", "pretext", "pretrain"},
    "pretrained_encoder": {
        "encoder": True,
        "start_from": True,
        "pretext": True,
        "pretrain": True,
        "retrain": {"warm_start"},
    },
    "features": {"encoder"},
    **{kind: {"encoder", "evaluations"} for kind in EVALUATIONS},
    "registered_model": {"name", "promote"},
    "drift": {"encoder"},
    "embeddings": {"name"},
}
"""The fields of the recipe that decide each stage; a change of them is a new code version in Dagster's eyes."""

REASON = "ssl_pipeline/reason"
"""The tag of a run that says why it was asked for."""

Assets = list[dg.AssetsDefinition]


def dataset_asset(config: recipe.Dataset) -> dg.AssetsDefinition:
    """The asset of a dataset."""

    @dg.asset(
        key=[config.name, "dataset"],
        group_name="datasets",
        kinds={"dvc", "parquet"},
        code_version=code_version(config, {"source", "split", "max_quarantined", "version"}),
        tags={"ssl_pipeline/source": config.source.kind},
        description=(
            f"{config.description}\n\n"
            "Every usable sample of the source, split into train, validation and test and packed into a few Parquet files; "
            "what cannot be used is set aside with the reason. DVC keeps each version: its digest, a checksum over all files, is "
            "the data version."
        ).strip(),
    )
    def dataset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        stage = run(context, lambda project, say: chain.dataset(project, config, say))
        return dg.MaterializeResult(metadata=metadata.of(stage), data_version=dg.DataVersion(stage.summary["digest"]))

    return dataset


def recipe_assets(config: recipe.Recipe) -> Assets:
    """The assets of a recipe, in the order in which data meets them."""

    def stage(
        name: str, *after: Sequence[str], kinds: set[str], pool: str | None = None, description: str | None = None
    ) -> Callable[[Any], Any]:
        return dg.asset(
            key=[config.name, name],
            description=description,
            deps=list(after),
            group_name=config.name,
            kinds=kinds,
            pool=pool,
            owners=list(config.owners),
            code_version=code_version(config, SLICES[name]),
            tags={"ssl_pipeline/task": config.pretext.task, "ssl_pipeline/dataset": config.dataset},
        )

    about = config.upstream.get("encoder.item_features")
    described = [[about, "features"]] if about else []

    @stage("pretext_labels", [config.dataset, "dataset"], *described, kinds={"parquet"})
    def pretext_labels(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The question that the encoder learns from, made from the data alone (the pretext task; no human labels): a sheet
        that shows it, how often each answer occurs, and the data packed for training."""
        return result(run(context, lambda project, say: chain.pretext_labels(project, config, say)))

    start = [[config.start_from, "pretrained_encoder"]] if config.start_from else []

    @stage("pretrained_encoder", [config.name, "pretext_labels"], *start, kinds={"pytorch"}, pool=instance.pool("gpu"))
    def pretrained_encoder(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The network that turns a sample into numbers, after training on the pretext task, with its training curves and a link
        to its run in MLflow. The last epoch's weights, not the best on any test. An interrupted training goes on from its
        last checkpoint."""
        return result(run(context, lambda project, say: chain.pretrained_encoder(project, config, say)))

    @stage("features", [config.name, "pretrained_encoder"], kinds={"parquet", "pytorch"}, pool=instance.pool("gpu"))
    def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """One embedding (a list of numbers) a sample, from the encoder as it was trained, and how well these spread and keep
        samples apart, judged without any label."""
        return result(run(context, lambda project, say: chain.features(project, config, say)))

    def evaluation(part: EvaluationPart) -> dg.AssetsDefinition:
        @stage(part.kind, [config.name, "features"], kinds=set(part.libraries), description=part.description)
        def evaluate(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return result(run(context, lambda project, say: chain.evaluation(project, config, part.kind, say)))

        return evaluate

    evaluations = [evaluation(part) for part in config.evaluations]
    before: list[str] = [part.kind for part in config.evaluations] or ["features"]

    @stage("registered_model", *([config.name, name] for name in before), kinds={"mlflow"})
    def registered_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The encoder as a version in MLflow's model registry, with the gates it passed (checks without which nothing is
        registered). It becomes the champion, the version in use, where it is shown to be better than the one before."""
        return result(run(context, lambda project, say: chain.registered_model(project, config, say)))

    return [pretext_labels, pretrained_encoder, features, *evaluations, registered_model, *assets_beside(config, stage)]


def assets_beside(config: recipe.Recipe, stage: Callable[..., Any]) -> Assets:
    """What is no part of the chain: it looks at what the chain made, when there is reason to."""
    beside: Assets = []
    if config.retrain.on_drift:

        @stage(
            "drift",
            [config.dataset, "dataset"],
            [config.name, "features"],
            kinds={"scikitlearn"},
            pool=instance.pool("gpu"),
        )
        def drift(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            """Has the data moved since the encoder was trained? A classifier tries to tell new samples from held-out old ones
            by their embeddings; the p-value says how often it would do so well by guessing, the pictures what has moved.
            Runs when its sensor finds enough new samples."""
            from ssl_pipeline import freshness

            return result(run(context, lambda project, say: freshness.drift(project, config, say)))

        beside.append(drift)
    if config.embeddings:

        @stage(
            "embeddings",
            [config.dataset, "dataset"],
            [config.name, "registered_model"],
            kinds={"parquet"},
            pool=instance.pool("gpu"),
        )
        def embeddings(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            """The champion's embedding of every sample of the dataset's current version, as Parquet, for search and for whatever
            learns from them. Follows the champion, also when it is taken back."""
            return result(run(context, lambda project, say: chain.embeddings(project, config, say)))

        beside.append(embeddings)
    return beside


def leaderboard_asset(dataset_name: str, recipes: list[recipe.Recipe]) -> dg.AssetsDefinition:
    """The asset that compares all recipes of one dataset."""

    @dg.asset(
        key=[dataset_name, "leaderboard"],
        deps=[[r.name, part.kind] for r in recipes for part in r.evaluations],
        group_name="leaderboards",  # not with the datasets: groups would then lead to each other in circles
        kinds={"markdown"},
    )
    def leaderboard(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """All recipes on this dataset side by side, on the same test data: a table for each evaluation with its baselines
        (what simple methods reach), which differences are more than chance, quality against the time of pretraining, and
        whether the numbers that need no labels rank the recipes as labels do."""
        return result(
            run(
                context,
                lambda project, say: leaderboards.leaderboard(project, dataset_name, evaluated(project, recipes), say),
            )
        )

    return leaderboard


def run(context: dg.AssetExecutionContext, stage: Callable[[Project, Callable[[str], None]], Stage]) -> Stage:
    """Runs one stage of the chain in the project; what a user can cure fails the step with that one line."""
    asked = ASKED.set(Asked(context.run.run_id, context.run.tags.get(REASON, "")))
    try:
        return stage(Project.find(), context.log.info)
    except PipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    finally:
        ASKED.reset(asked)


def evaluated(project: Project, recipes: list[recipe.Recipe]) -> list[recipe.Recipe]:
    """Those that have been evaluated already."""
    return [one for one in recipes if all(project.store.current(one.name, part.kind) for part in one.evaluations)]


def result(stage: Stage) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=metadata.of(stage), data_version=dg.DataVersion(stage.key))


def code_version(config: Part, fields: Any) -> str:
    """Eight hexadecimal digits over these fields of the configuration."""
    decided = json.dumps(config.model_dump(mode="json", include=fields), sort_keys=True)
    return hashlib.sha256(decided.encode()).hexdigest()[:8]
