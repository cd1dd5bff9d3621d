"""What a recipe may say of forecasting."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.evaluate.settings import EvaluationPart


class Forecasting(EvaluationPart):
    """What comes next in a window of a time series, from the frozen encoder's tokens."""

    kind: Literal["forecasting"] = "forecasting"
    kinds: ClassVar[tuple[str, ...]] = ("series",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("scikitlearn",)
    description: ClassVar[str] = (
        "How much better than the last value the end of a window is foretold from its beginning; beside a random encoder, a linear "
        "forecast from the values themselves and the same network trained for it."
    )
    horizon: int = Field(16, ge=1)
    """Steps at a window's end that are foretold; the encoder sees the last value before them in their place."""
    draws: int = Field(1000, ge=100, le=10_000)
    """Resamplings of the test windows; the 95% intervals are over these."""
    random_encoders: int = Field(3, ge=1, le=20)
    """Fresh encoders whose mean is the baseline."""
    supervised_steps: int = Field(300, ge=0)
    """Training steps of the supervised baseline; 0 leaves it out."""

    def fitted(self, encoder: EncoderPart) -> Self:
        length = getattr(encoder, "length", 0)
        if encoder.kind in self.kinds and self.horizon > length // 2:
            raise ValueError(
                f"horizon {self.horizon} leaves less than half of the encoder's length {length}: lower it to {length // 2}"
            )
        return super().fitted(encoder)

    def metrics(self) -> list[str]:
        return ["forecasting/linear/skill/all"]

    def leading(self) -> str:
        return "forecasting/linear/skill/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"skill in percent: the share of the last value's squared error that is saved, {self.horizon} steps ahead, "
            f"{summary['test_samples']:,} test windows, 95% interval over resampled windows, as if none shared a recording"
        )

    def task_of(self, encoder: EncoderPart) -> dict[str, Any]:
        return encoder.model_dump(include={"length", "fit"})
