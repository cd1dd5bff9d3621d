"""When to train again: decided from what lies in the store, so that the reason can be told and tested without Dagster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ssl_pipeline.part import late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.record import open_tracker

if TYPE_CHECKING:
    from ssl_pipeline.store import Stage

freshness = late("ssl_pipeline.freshness")
tracking = late("ssl_pipeline.tracking")


@dataclass(frozen=True)
class Watch:
    """What is known of a source: how it looked last, since when, and how it looked when it was last read."""

    looks: str = ""
    since: float = 0.0
    read: str = ""

    def seen(self, looks: str, now: float) -> Watch:
        return self if looks == self.looks else Watch(looks, now, self.read)

    def settled(self, now: float, seconds: float) -> bool:
        """Changed since it was read, and not any more for so long."""
        return self.looks != self.read and now - self.since >= seconds


@dataclass(frozen=True)
class Verdict:
    """What is to be run, if anything, and why."""

    what: Literal["nothing", "training", "drift"]
    reason: str
    key: str = ""
    """Of the circumstances: they are reason for one run."""


def verdict(project: Project, recipe: Recipe) -> Verdict:
    """Of a recipe, by its data's current version and the encoder that it has."""
    store, retrain = project.store, recipe.retrain
    encoder, data = store.current(recipe.name, "pretrained_encoder"), store.current(recipe.dataset, "dataset")
    if encoder is None or data is None:
        return Verdict("nothing", f"never trained so far: run {recipe.name} once")
    if retrain.on_upstream and (news := upstream_news(project, recipe, encoder)):
        return news
    digest, seen = data.summary["digest"], encoder.summary["made_from"]["dataset"]
    if digest == seen:
        return Verdict("nothing", f"trained on the dataset's current version, {digest[:8]}")
    if not (retrain.on_new_data or retrain.on_drift):
        return Verdict("nothing", f"the dataset is at {digest[:8]}, which does not matter to this recipe's settings")
    new = freshness.unseen(project, encoder, data)
    told, key = f"{new:,} samples in {digest[:8]} that {seen[:8]} had not", f"{encoder.key}-{digest}"
    if retrain.on_new_data and new >= retrain.on_new_data.minimum_samples:
        return Verdict("training", f"new data: {told}", f"data-{key}")
    waits = f"new data: {told}"
    if retrain.on_new_data:
        waits += f", {retrain.on_new_data.minimum_samples:,} are asked for"
    if retrain.on_drift is None or new < retrain.on_drift.minimum_samples:
        return Verdict("nothing", waits)
    tested = store.current(recipe.name, "drift")
    made_from = tested.summary["made_from"] if tested else {}
    if tested is None or (made_from["pretrained_encoder"], made_from["dataset"]) != (encoder.key, digest):
        return Verdict("drift", f"to be tested for drift: {told}", f"drift-{key}")
    p_value = tested.summary.get("p_value", 1.0)
    apart = f"p = {p_value:.2g} against {retrain.on_drift.p_value:g}, {new:,} new samples"
    if p_value < retrain.on_drift.p_value:
        return Verdict("training", f"drift: {apart}", f"moved-{key}")
    return Verdict("nothing", f"no drift: {apart}; {waits}")


def upstream_news(project: Project, recipe: Recipe, encoder: Stage) -> Verdict | None:
    """Where another recipe has another champion than the encoder was made from. Raises PipelineError where MLflow is away."""
    for field, name in recipe.upstream.items():
        stage = {"start_from": "pretrained_encoder", "encoder.item_features": "features"}[field]
        champion, theirs = tracking.champion(open_tracker(project), name), project.store.current(name, stage)
        if champion is None or theirs is None:
            continue
        trained = theirs.summary["made_from"].get("pretrained_encoder", theirs.key)
        ours = encoder.summary["made_from"].get(field.split(".")[-1])
        if trained == champion.tags.get("encoder") and theirs.key != ours:
            reason = f"upstream: {name} version {champion.version} is its champion"
            return Verdict("training", reason, f"upstream-{theirs.key}-{encoder.key}")
    return None
