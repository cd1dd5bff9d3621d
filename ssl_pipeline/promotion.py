"""May a version become the champion? The recipe's policy, asked of it and of the one that reigns, on the same data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssl_pipeline import tracking
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.evaluate import measured as again
from ssl_pipeline.evaluate import paired
from ssl_pipeline.features.quality import label_free_quality
from ssl_pipeline.pretext import pack as packs
from ssl_pipeline.pretrain.compute import pick_device
from ssl_pipeline.tracking import registry

if TYPE_CHECKING:
    from ssl_pipeline.project import Project
    from ssl_pipeline.recipe import Recipe
    from ssl_pipeline.store import Stage
    from ssl_pipeline.tracking import Tracker, Version


@dataclass(frozen=True)
class Decision:
    """Whether a version is promoted, in place of which champion, and why."""

    promoted: bool
    why: str
    reigning: int | None = None


@dataclass(frozen=True)
class Evidence:
    """The stages by which a version is judged."""

    data: Stage
    features: Stage
    evaluated: Stage | None
    """The evaluation that has the promoted metric."""


def promote(
    project: Project, recipe: Recipe, tracker: Tracker, version: int, new: Evidence, who: str, cause: str
) -> Decision:
    """Decides, and moves the aliases accordingly. Whatever becomes of the champion meanwhile, such as a rollback, stands: the
    decision is then made again, against the new one."""
    while True:
        found = decide(project, recipe, tracker, version, new)
        why = f"{found.why}; run for: {cause}" if cause else found.why
        if not found.promoted:
            tracking.challenge(tracker, recipe.name, version, why, who)
            return found
        try:
            tracking.promote(tracker, recipe.name, version, why, who, expected=found.reigning)
            return found
        except tracking.Changed:
            continue


def decide(project: Project, recipe: Recipe, tracker: Tracker, version: int, new: Evidence) -> Decision:
    """Says why, beginning with `promoted` or `not promoted`."""
    reigning = tracking.champion(tracker, recipe.name)
    if reigning and reigning.version == version:
        return Decision(True, "promoted: it is the champion already", version)
    if gone := tracking.taken_back(tracker, recipe.name).get(version):
        return Decision(False, f"not promoted: {gone.who} took version {version} back ({gone.why})")
    policy, approve = recipe.promote, f"`ssl-pipeline promote {recipe.name} --version {version}`"
    if reigning is None:
        if policy and policy.approval == "manual":
            return Decision(False, f"not promoted: the first version waits for approval: {approve}")
        return Decision(True, "promoted: the first version")
    if policy is None:
        detail = f"without a metric to compare by, version {reigning.version} stays: {approve} decides otherwise"
        return Decision(False, f"not promoted: {detail}")
    good, comparison = compared(project, recipe, tracker, new, reigning)
    if good and policy.approval == "manual":
        return Decision(False, f"not promoted: {comparison}; it waits for approval: {approve}")
    return Decision(good, f"{'promoted' if good else 'not promoted'}: {comparison}", reigning.version)


def compared(project: Project, recipe: Recipe, tracker: Tracker, new: Evidence, reigning: Version) -> tuple[bool, str]:
    """Whether the new version is no worse than the champion by more than the policy allows: by the lower end of the 95% interval
    of the difference on the same test samples (a test of non-inferiority), or by the values where no scores of samples are
    kept; and the numbers."""
    assert recipe.promote
    metric, allowed = recipe.promote.metric, recipe.promote.worse_by
    own, theirs = measured(new, recipe.name, metric), champions(project, recipe, tracker, new, reigning)
    values = f"{metric} {own['mean']:.4f} against {theirs['mean']:.4f} of version {reigning.version} on the same data"
    if recipe.promote.label_free:
        return own["mean"] >= theirs["mean"] * (1 - allowed), f"{values}, {allowed:.0%} less is allowed"
    if "scores" not in own or "scores" not in theirs:
        return own["mean"] >= theirs["mean"] - allowed, f"{values}, {allowed:g} less is allowed"
    found = paired.compare(own["scores"], theirs["scores"])
    said = (
        f"{values}, difference {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}], -{allowed:g} is allowed"
    )
    return found.low >= -allowed, said


def measured(new: Evidence, name: str, metric: str) -> dict[str, Any]:
    """The metric of the version that is to be judged, with the scores of test samples where they were kept."""
    if new.evaluated is None:
        return {"mean": new.features.summary[metric.split("/")[1]]}
    cell = new.evaluated.summary["metrics"][metric]
    scores = paired.read(new.evaluated.path).get((name, metric))
    return cell if scores is None else cell | {"scores": scores}


def champions(project: Project, recipe: Recipe, tracker: Tracker, new: Evidence, reigning: Version) -> dict[str, Any]:
    """The same of the champion, measured now: on this data, by this recipe's protocol."""
    assert recipe.promote
    items = new.features.summary["made_from"].get("item_features")
    with registry.downloaded(tracker, f"models:/{recipe.name}/{reigning.version}") as (_, path):
        folder = path / "extra_files"
        encoder = encoders.load(folder).to(pick_device(recipe.pretrain.device))
        settings = encoders.settings_in(folder)
        described = project.store.get("features", items) if items else None
        pack = packs.open_pack(packs.build(project.store, new.data, settings, described))
        if recipe.promote.label_free:
            found = label_free_quality(encoder, pack, recipe.pretrain, recipe.encoder.kind)
            return {"mean": found[recipe.promote.metric.split("/")[1]]}
        part = next(e for e in recipe.evaluations if e.kind == recipe.promote.evaluation)
        return again.measured(recipe, pack, encoder, folder, part)[recipe.promote.metric]
