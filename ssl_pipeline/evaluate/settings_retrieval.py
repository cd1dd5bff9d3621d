"""What a recipe may say of the evaluation by retrieval."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ssl_pipeline.evaluate.settings import EvaluationPart

DIRECTIONS = ("image_to_text", "text_to_image")


class Retrieval(EvaluationPart):
    """How well an image finds its captions among all captions of the test split, and a caption its image."""

    kind: Literal["retrieval"] = "retrieval"
    kinds: ClassVar[tuple[str, ...]] = ("image_text",)
    usual_for: ClassVar[tuple[str, ...]] = ("image_text",)
    libraries: ClassVar[tuple[str, ...]] = ("pytorch", "scikitlearn")
    description: ClassVar[str] = (
        "How well an image finds its captions among all captions of the test split, and a caption its image; beside a random "
        "encoder, chance, shuffled pairs and ridge regression from colours and edges to words."
    )
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10), min_length=1)
    """The k of recall@k."""
    draws: int = Field(1000, ge=100, le=10_000)
    """Resamplings of the test images; the 95% intervals are over these."""
    random_encoders: int = Field(3, ge=1, le=20)
    """Fresh encoders whose mean is the baseline."""

    @field_validator("ks")
    @classmethod
    def each_once(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(ks)) < len(ks):
            raise ValueError(f"ks {list(ks)} names a number twice: name each once")
        return ks

    def metrics(self) -> list[str]:
        """Names of the metrics that are better when higher. (`retrieval/DIRECTION/median_rank/all` is measured, too.)"""
        return [f"retrieval/{direction}/recall_at_{k}/all" for direction in DIRECTIONS for k in self.ks]

    def leading(self) -> str:
        return f"retrieval/text_to_image/recall_at_{max(self.ks)}/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"recall in percent, {summary['test_samples']:,} test images with {summary['captions']:,} captions, 95% interval over "
            "resampled images"
        )
