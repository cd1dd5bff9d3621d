"""What must hold before a model is registered. Dagster shows each gate as a blocking check; registration asks again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssl_pipeline.part import late

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe
    from ssl_pipeline.store import Stage

pd = late("pandas")


@dataclass(frozen=True)
class Gate:
    """One condition, whether it holds, and the numbers that say so."""

    name: str
    passed: bool
    detail: str


def data_pinned(digest: str, pinned: str | None, held: bool = False) -> Gate:
    """The dataset version that was used is the one that data.dvc records, or was when it was begun and DVC holds it still: new data
    may have come while a model was trained."""
    kept = "; DVC holds the one that was used" if held and digest != pinned else ""
    return Gate("data_pinned", digest == pinned or held, f"used {digest}, data.dvc records {pinned or 'nothing'}{kept}")


def not_collapsed(encoder: Stage) -> Gate:
    """Embeddings spread over more than one direction, and the loss left the constant of an encoder that learnt nothing."""
    rank, loss, constant = (encoder.summary[k] for k in ("effective_rank", "final_loss", "collapse_loss"))
    learnt = constant is None or loss < constant
    compared = "" if constant is None else f", loss {loss:.3f} against {constant:.3f} when nothing is learnt"
    cure = ""
    if rank <= 1.5:
        cure = "; all samples look alike to it: try a lower learning_rate, or another task"
    elif not learnt:
        cure = f"; {encoder.summary['steps']:,} steps are few: more epochs, or a smaller batch_size"
    return Gate("not_collapsed", not cure, f"effective rank {rank:.1f}{compared}{cure}")


def nothing_leaked(recipe: Recipe, features: Stage) -> Gate:
    """No sample and no group stands in two splits. A log of interactions is split within each user, by time."""
    if recipe.encoder.kind == "interactions":
        return Gate("nothing_leaked", True, "each user's last interactions are held out")
    table = pd.read_parquet(features.path / "features.parquet", columns=["sample_id", "group", "split"])
    for column, what in (("sample_id", "sample"), ("group", "group")):
        splits = table.dropna(subset=column).groupby(column)["split"].unique()
        if len(shared := splits[splits.map(len) > 1]):
            names = ", ".join(sorted(shared.iloc[0]))
            detail = (
                f"{what}s in more than one split: {len(shared)}, such as {shared.index[0]!r} in {names}; ingest again"
            )
            return Gate("nothing_leaked", False, detail)
    groups = table["group"].nunique()
    counted = f"{len(table):,} samples" + (f" and {groups:,} groups" if groups else "")
    return Gate("nothing_leaked", True, f"{counted}, each in one split")


def metric_floor(recipe: Recipe, kind: str, stage: Stage) -> Gate:
    """What this stage measured reaches the recipe's floors."""
    values = measured(recipe, kind, stage)
    told = [f"{metric} {value:.3f}, at least {least:.3f} is asked for" for metric, (value, least) in values.items()]
    return Gate("metric_floor", all(value >= least for value, least in values.values()), "; ".join(told))


def measured(recipe: Recipe, kind: str, stage: Stage) -> dict[str, tuple[float, float]]:
    """Of the metrics of a stage of this kind that have a floor: value and floor."""
    least = (
        {m: floor for m, floor in recipe.promote.least().items() if m.split("/")[0] == kind} if recipe.promote else {}
    )
    if kind == "features":
        return {metric: (stage.summary[metric.split("/")[1]], floor) for metric, floor in least.items()}
    return {metric: (stage.summary["metrics"][metric]["mean"], floor) for metric, floor in least.items()}


def better_than_random(recipe: Recipe, evaluated: Stage) -> Gate:
    """The promoted metric is above the same encoder's with random weights, which fine-tuning trains from scratch."""
    assert recipe.promote
    metric, baselines = recipe.promote.metric, evaluated.summary["baselines"]
    own = evaluated.summary["metrics"][metric]
    name = "random encoder" if "random encoder" in baselines else "supervised"
    random, said = baselines[name][metric], ""
    if own["mean"] <= random["mean"]:
        said = "; train longer, try another task, or register all the same with promote: null in the recipe"
    elif own["low"] <= random["high"]:
        said = "; the intervals touch: that it is better is not shown"
    compared = f"{metric} {with_interval(own)}, {name} {with_interval(random)}"
    return Gate("better_than_random", own["mean"] > random["mean"], compared + said)


def with_interval(cell: dict[str, float]) -> str:
    known = math.isfinite(cell["low"])
    return f"{cell['mean']:.3f}" + (f" [{cell['low']:.3f}, {cell['high']:.3f}]" if known else "")


def all_gates(recipe: Recipe, data: Gate, encoder: Stage, features: Stage, evaluated: dict[str, Stage]) -> list[Gate]:
    """Every gate that applies, beside the one of the data; `evaluated` are the evaluations by their kinds."""
    gates = [data, not_collapsed(encoder), nothing_leaked(recipe, features)]
    stages = {"features": features} | evaluated
    gates += [metric_floor(recipe, kind, stages[kind]) for kind in with_floors(recipe)]
    if recipe.promote and not recipe.promote.label_free:
        gates.append(better_than_random(recipe, evaluated[recipe.promote.evaluation]))
    return gates


def with_floors(recipe: Recipe) -> list[str]:
    """The stages whose metrics have floors."""
    return list(dict.fromkeys(m.split("/")[0] for m in recipe.promote.least())) if recipe.promote else []


def failures(gates: list[Gate]) -> list[dict[str, Any]]:
    return [{"gate": g.name, "detail": g.detail} for g in gates if not g.passed]
