"""Asset checks: the gates of `gates.py` as blocking checks, and a few that only warn."""

from __future__ import annotations

from typing import Any

import dagster as dg

from ssl_pipeline import gates, recipe
from ssl_pipeline.gates import Gate
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.store import Stage

Checks = list[dg.AssetChecksDefinition]

WIDEST_IMBALANCE = 2.0
"""How many times more often than the rarest the commonest pretext label may occur."""


def dataset_checks(config: recipe.Dataset) -> Checks:
    """Checks of a dataset; they warn and never block."""
    key = dg.AssetKey([config.name, "dataset"])

    @dg.asset_check(asset=key)
    def nothing_quarantined() -> dg.AssetCheckResult:
        """Every file of the source could be read and used. Only warns, with how many could not, and why."""
        summary = current(config.name, "dataset").summary
        count, reasons = summary["quarantined"], summary.get("reasons") or {}
        detail = ", ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "every file is usable"
        return warned(Gate("nothing_quarantined", count == 0, detail), quarantined=count, samples=summary["samples"])

    @dg.asset_check(asset=key)
    def same_as_committed() -> dg.AssetCheckResult:
        """The dataset is the version that git's last commit of data.dvc records. Only warns: a new version is to be
        committed, so that colleagues and later runs get the same data."""
        digest = current(config.name, "dataset").summary["digest"]
        committed = pinned(config.name, committed=True)
        if committed is None:
            detail = "not committed yet: commit data.dvc to keep this version"
        elif committed == digest:
            detail = "the same as committed"
        else:
            detail = "a new version: commit data.dvc to keep it"
        gate = Gate("same_as_committed", committed in (None, digest), detail)
        return warned(gate, digest=digest, committed=committed or "nothing")

    return [nothing_quarantined, same_as_committed]


def recipe_checks(config: recipe.Recipe) -> Checks:
    """The gates where they can first be asked: each blocks what comes after it."""

    def key(stage: str) -> dg.AssetKey:
        return dg.AssetKey([config.name, stage])

    @dg.asset_check(asset=key("pretext_labels"), blocking=True)
    def data_pinned() -> dg.AssetCheckResult:
        """The dataset in use is the version that the file data.dvc records, so that the result can be made again from
        the same data. Blocks training where it is not."""
        digest = current(config.dataset, "dataset").summary["digest"]
        recorded = pinned(config.dataset)
        return gated(gates.data_pinned(digest, recorded), digest=digest, pinned=recorded or "nothing")

    @dg.asset_check(asset=key("pretext_labels"))
    def labels_balanced() -> dg.AssetCheckResult:
        """No answer to the pretext question occurs more than twice as often as another: an encoder could guess the
        common one and learn nothing. Only warns; tasks without separate answers pass."""
        counts = list((current(config.name, "pretext_labels").summary.get("balance") or {}).values())
        ratio = max(counts) / max(1, min(counts)) if counts else 1.0
        detail = f"commonest to rarest {ratio:.2f}" if counts else "this task has no discrete labels"
        gate = Gate("labels_balanced", ratio <= WIDEST_IMBALANCE, detail)
        return warned(gate, ratio=round(ratio, 3), labels=len(counts))

    @dg.asset_check(asset=key("pretrained_encoder"), blocking=True)
    def not_collapsed() -> dg.AssetCheckResult:
        """The encoder gives different samples different embeddings (it has not collapsed to one answer for all), and its
        loss fell below that of an encoder that learnt nothing. Blocks what comes after where either is not so."""
        encoder = current(config.name, "pretrained_encoder")
        return gated(gates.not_collapsed(encoder), **numbers(encoder, "effective_rank", "final_loss", "collapse_loss"))

    @dg.asset_check(asset=key("features"), blocking=True)
    def nothing_leaked() -> dg.AssetCheckResult:
        """No sample, and no group of samples such as one patient's, stands both in training and in what is measured on:
        results would look better than they are. Blocks evaluation where one does."""
        return gated(gates.nothing_leaked(config, current(config.name, "features")))

    always: Checks = [data_pinned, labels_balanced, not_collapsed, nothing_leaked]
    return always + (promotion_checks(config) if config.promote else [])


def promotion_checks(config: recipe.Recipe) -> Checks:
    """The gates on the metric that promotes."""
    assert config.promote

    def floor(kind: str) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=dg.AssetKey([config.name, kind]), blocking=True)
        def metric_floor() -> dg.AssetCheckResult:
            """Each metric for which the recipe names a minimum (under `promote`) reaches it. Blocks registration where one
            does not."""
            stage = current(config.name, kind)
            shown = {metric: value for metric, (value, _) in gates.measured(config, kind, stage).items()}
            return gated(gates.metric_floor(config, kind, stage), **shown)

        return metric_floor

    floors = [floor(kind) for kind in gates.with_floors(config)]
    if config.promote.label_free:
        return floors

    kind = config.promote.evaluation

    @dg.asset_check(asset=dg.AssetKey([config.name, kind]), blocking=True)
    def better_than_random() -> dg.AssetCheckResult:
        """The metric that decides on promotion is above that of the same encoder before any training, with random
        weights. Blocks registration where training has brought nothing."""
        stage = current(config.name, kind)
        return gated(gates.better_than_random(config, stage), **promoted(config, stage.summary["metrics"]))

    return [*floors, better_than_random]


def current(owner: str, stage: str) -> Stage:
    """The stage that was just made. Raises Failure where there is none."""
    if found := Project.find().store.current(owner, stage):
        return found
    raise dg.Failure(f"{owner}/{stage} has not been built: materialize it first", allow_retries=False)


def pinned(name: str, committed: bool = False) -> str | None:
    from ssl_pipeline import versioning

    try:
        return versioning.pinned(Project.find().root, name, committed=committed)
    except PipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def numbers(stage: Stage, *names: str) -> dict[str, Any]:
    return {name: stage.summary[name] for name in names if stage.summary.get(name) is not None}


def promoted(config: recipe.Recipe, metrics: dict[str, Any]) -> dict[str, Any]:
    assert config.promote
    return {**metrics[config.promote.metric], "minimum": config.promote.minimum}


def gated(gate: Gate, **shown: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=gate.passed, severity=dg.AssetCheckSeverity.ERROR, description=gate.detail, metadata=shown
    )


def warned(gate: Gate, **shown: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=gate.passed, severity=dg.AssetCheckSeverity.WARN, description=gate.detail, metadata=shown
    )
