"""Every evaluation that a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from ssl_pipeline.evaluate.settings import Classification, EvaluationPart, FineTuning, Pretext
from ssl_pipeline.evaluate.settings_clustering import Clustering
from ssl_pipeline.evaluate.settings_detection import Detection
from ssl_pipeline.evaluate.settings_forecasting import Forecasting
from ssl_pipeline.evaluate.settings_multi_label import MultiLabel
from ssl_pipeline.evaluate.settings_recommendation import Recommendation
from ssl_pipeline.evaluate.settings_retrieval import Retrieval
from ssl_pipeline.evaluate.settings_robustness import Robustness
from ssl_pipeline.evaluate.settings_segmentation import Segmentation
from ssl_pipeline.evaluate.settings_translation import Translation
from ssl_pipeline.evaluate.settings_zero_shot import ZeroShot

EVALUATIONS: tuple[type[EvaluationPart], ...] = (
    Pretext,
    Classification,
    FineTuning,
    MultiLabel,
    Clustering,
    Robustness,
    Retrieval,
    ZeroShot,
    Recommendation,
    Detection,
    Segmentation,
    Translation,
    Forecasting,
)
KINDS: tuple[str, ...] = tuple(evaluation.model_fields["kind"].default for evaluation in EVALUATIONS)
"""The names of their stages."""

if TYPE_CHECKING:
    AnyEvaluation = Any
else:
    AnyEvaluation = Annotated[Union[EVALUATIONS], Field(discriminator="kind")]  # noqa: UP007
