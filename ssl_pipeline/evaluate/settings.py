"""What a recipe may say of its evaluations. Kept apart from the evaluations, so that a recipe loads without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ssl_pipeline.part import Part
from ssl_pipeline.pretext.views import Views

INTERVAL = "mean and 95% interval over label draws and the finite test split"
Shots = Annotated[int, Field(ge=1)] | Literal["all"]


class Classification(Part):
    """How well labels can be read off the frozen features: kNN and a linear probe, few labels to all."""

    kind: Literal["classification"] = "classification"
    shots: tuple[Shots, ...] = Field((10, 100, "all"), min_length=1)
    """Labels a class that a probe may see."""
    draws: int = Field(3, ge=3, le=20)
    """Random label subsets a shot count; the interval is over these."""
    k: int = Field(20, ge=1)
    """Neighbours that vote in kNN."""
    temperature: float = Field(0.07, gt=0)
    """Sharpness of their weights, exp(cosine / temperature)."""
    supervised_steps: int = Field(300, ge=0)
    """Fewest training steps of each supervised baseline, which sees its labels three times at least; 0 leaves it out."""
    supervised_views: Views = Views(min_scale=0.4, color=0.2)
    """Augmentation of the supervised baseline; give it what fits the data, or it is beaten too easily."""

    @field_validator("shots")
    @classmethod
    def each_once(cls, shots: tuple[Shots, ...]) -> tuple[Shots, ...]:
        if len(set(shots)) < len(shots):
            raise ValueError(f"shots {list(shots)} names a count twice: name each once")
        return shots

    def metrics(self) -> list[str]:
        """Names of the metrics this evaluation yields."""
        return [f"classification/{probe}/accuracy/{shots}" for probe in ("knn", "linear") for shots in self.shots]
