"""What a recipe may say of the evaluation of recommendations. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ssl_pipeline.evaluate.settings import EvaluationPart

MEASURES = ("hr", "ndcg", "mrr", "coverage", "novelty")
INTERVAL = "mean over users and 95% interval (bootstrap over users)"


class Recommendation(EvaluationPart):
    """How well a user's next item is found among all items, those that the user has seen left out."""

    kind: Literal["recommendation"] = "recommendation"
    kinds: ClassVar[tuple[str, ...]] = ("interactions",)
    usual_for: ClassVar[tuple[str, ...]] = ("interactions",)
    description: ClassVar[str] = (
        "How well a user's next item is found among all items, those that the user has seen left out; beside popularity, item-kNN, "
        "a Markov chain, EASE and EASE that forgets."
    )
    cutoffs: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((5, 10, 20), min_length=1)
    """Lengths of the lists that are judged."""
    resamples: int = Field(2000, ge=100)
    """Of the bootstrap."""
    neighbours: int = Field(200, ge=1)
    """Of the item-kNN baseline: how many similar items each item speaks for."""
    penalty: float = Field(500, gt=0)
    """Of the EASE baselines, on the square of their weights."""
    decay: float = Field(0.9, gt=0, le=1)
    """Of EASE with recency: what an item weighs, relative to the one after it in the history."""

    @field_validator("cutoffs")
    @classmethod
    def each_once(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(cutoffs)) < len(cutoffs):
            raise ValueError(f"cutoffs {list(cutoffs)} names a length twice: name each once")
        return cutoffs

    def metrics(self) -> list[str]:
        return [name(measure, cutoff) for measure in MEASURES for cutoff in self.cutoffs]

    def leading(self) -> str:
        return name("ndcg", 10 if 10 in self.cutoffs else max(self.cutoffs))

    def caption(self, summary: dict[str, Any]) -> str:
        return f"in percent, {summary['test_samples']:,} users, all {summary['items']:,} items ranked, {INTERVAL}"


def name(measure: str, cutoff: int, among: str = "full") -> str:
    """`among`: all users, or those whose item is in a bucket."""
    return f"recommendation/{among}/{measure}_at_{cutoff}/all"
