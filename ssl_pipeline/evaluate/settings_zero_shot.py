"""What a recipe may say of zero-shot classification."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ssl_pipeline.evaluate.settings import EvaluationPart


class ZeroShot(EvaluationPart):
    """Classification by the words of the classes alone: no label is seen."""

    kind: Literal["zero_shot"] = "zero_shot"
    kinds: ClassVar[tuple[str, ...]] = ("image_text",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("pytorch",)
    description: ClassVar[str] = (
        "Is an image nearest to the name of its class, among the names of all classes? No label is trained on; the prompts are "
        "part of the number. Beside a random encoder and chance."
    )
    prompts: tuple[str, ...] = Field(("{}", "a photo of {}", "a picture of {}"), min_length=1)
    """Sentences with a place for the class's name, whose embeddings are averaged."""
    names: dict[str, str] = {}
    """Label -> its name in words, where the label itself is not."""
    random_encoders: int = Field(3, ge=1, le=20)
    """Fresh encoders whose mean is the baseline."""

    @field_validator("prompts")
    @classmethod
    def have_a_place(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [prompt for prompt in prompts if prompt.count("{}") != 1]:
            raise ValueError(f"{wrong[0]!r} needs one place for the class's name: write it as {{}}")
        return prompts

    def metrics(self) -> list[str]:
        return ["zero_shot/prompted/accuracy/all", "zero_shot/prompted/class_mean_accuracy/all"]

    def leading(self) -> str:
        return "zero_shot/prompted/accuracy/all"

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"test accuracy in percent over {len(summary['classes'])} classes without a label, {summary['test_samples']:,} test "
            f"images, 95% interval over these; prompts: {', '.join(map(repr, self.prompts))}"
        )
