"""Every evaluation that a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from ssl_pipeline.evaluate.settings import Classification, EvaluationPart, Pretext
from ssl_pipeline.evaluate.settings_recommendation import Recommendation
from ssl_pipeline.evaluate.settings_retrieval import Retrieval

EVALUATIONS: tuple[type[EvaluationPart], ...] = (Pretext, Classification, Retrieval, Recommendation)
KINDS: tuple[str, ...] = tuple(evaluation.model_fields["kind"].default for evaluation in EVALUATIONS)
"""The names of their stages."""

if TYPE_CHECKING:
    AnyEvaluation = Any
else:
    AnyEvaluation = Annotated[Union[EVALUATIONS], Field(discriminator="kind")]  # noqa: UP007
