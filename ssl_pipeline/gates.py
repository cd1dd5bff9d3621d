"""What must hold before a model is registered. Dagster shows each gate as a blocking check; registration asks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe
    from ssl_pipeline.store import Stage


@dataclass(frozen=True)
class Gate:
    """One condition, whether it holds, and the numbers that say so."""

    name: str
    passed: bool
    detail: str


def data_pinned(digest: str, pinned: str | None) -> Gate:
    """The dataset version that was used is the one that data.dvc records."""
    return Gate("data_pinned", digest == pinned, f"used {digest}, data.dvc records {pinned or 'nothing'}")


def not_collapsed(encoder: Stage) -> Gate:
    """Embeddings spread over more than one direction, and the loss left the constant of an encoder that learnt nothing."""
    rank, loss, constant = (encoder.summary[k] for k in ("effective_rank", "final_loss", "collapse_loss"))
    learnt = constant is None or loss < constant
    compared = "" if constant is None else f", loss {loss:.3f} against {constant:.3f} when nothing is learnt"
    return Gate("not_collapsed", rank > 1.5 and learnt, f"effective rank {rank:.1f}{compared}")


def metric_floor(recipe: Recipe, evaluated: Stage) -> Gate:
    """The promoted metric reaches the recipe's minimum."""
    assert recipe.promote
    value = evaluated.summary["metrics"][recipe.promote.metric]["mean"]
    return Gate(
        "metric_floor",
        value >= recipe.promote.minimum,
        f"{recipe.promote.metric} {value:.3f}, at least {recipe.promote.minimum:.3f} is asked for",
    )


def better_than_random(recipe: Recipe, evaluated: Stage) -> Gate:
    """The promoted metric is above the same encoder's with random weights."""
    assert recipe.promote
    value = evaluated.summary["metrics"][recipe.promote.metric]["mean"]
    random = evaluated.summary["baselines"]["random encoder"][recipe.promote.metric]["mean"]
    return Gate(
        "better_than_random", value > random, f"{recipe.promote.metric} {value:.3f}, random encoder {random:.3f}"
    )


def all_gates(recipe: Recipe, digest: str, pinned: str | None, encoder: Stage, evaluated: Stage | None) -> list[Gate]:
    """Every gate that applies, `evaluated` being the evaluation that promotes; without one only the label-free ones."""
    gates = [data_pinned(digest, pinned), not_collapsed(encoder)]
    if recipe.promote and evaluated:
        gates += [metric_floor(recipe, evaluated), better_than_random(recipe, evaluated)]
    return gates


def failures(gates: list[Gate]) -> list[dict[str, Any]]:
    return [{"gate": g.name, "detail": g.detail} for g in gates if not g.passed]
