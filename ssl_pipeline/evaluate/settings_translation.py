"""What a recipe may say of the evaluation by translation. Loads without torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.evaluate.settings import EvaluationPart

MEASURES = ("bleu", "chrf")


class Translation(EvaluationPart):
    """How well a decoder translates that reads the encoder and is trained with it, beside one that reads a random encoder."""

    kind: Literal["translation"] = "translation"
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    usual_for: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ("pytorch",)
    needs_in_data: ClassVar[tuple[str, str]] = (
        "pairs", "none of its texts has another side, which translation needs: name its column in the source's target, or its file "
        "in parallel",
    )  # fmt: skip
    description: ClassVar[str] = (
        "Does a small decoder learn to translate sooner where it reads the pretrained encoder than where it reads a random one of "
        "the same size? Both are trained on the same pairs for the same number of steps."
    )
    steps: int = Field(2000, ge=1)
    """Of training, encoder and decoder together; the last step's weights translate."""
    batch_size: int = Field(64, ge=1)
    """Pairs a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW at its peak, for both encoders: warm-up over a tenth of the steps, then half a cosine to zero."""
    layers: int = Field(2, ge=1)
    """Of the decoder."""
    width: int = Field(256, ge=8)
    """Of the decoder; the encoder's embeddings are projected to it where theirs is another."""
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the decoder; the encoder keeps its own."""
    vocabulary: int = Field(4000, ge=300, le=65_535)
    """Tokens of the decoder's tokenizer, which is trained on the training split's targets."""
    longest: int = Field(64, ge=2, le=1024)
    """Tokens of a target; longer ones are cut."""
    beams: int = Field(4, ge=1, le=32)
    """Translations that are followed at a time; 1 is greedy."""
    seeds: int = Field(3, ge=2, le=20)
    """Trainings, each with another decoder, order of pairs and dropout; the interval is over these, too."""
    test_sentences: int = Field(1000, ge=10)
    """Pairs of the test split that are translated at most, drawn at random."""
    resamples: int = Field(1000, ge=100)
    """Of the test sentences, for the interval."""
    tokenize: Literal["13a", "intl", "char", "zh"] = "13a"
    """How sacreBLEU finds words: 13a where blanks part them, zh in Chinese, char where neither holds."""

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}: set heads to "
                f"{next(n for n in range(self.heads, 0, -1) if self.width % n == 0)}"
            )
        return self

    def metrics(self) -> list[str]:
        """Names of the metrics that are better when higher. (`translation/validation/loss/STEP` is measured, too.)"""
        return [f"translation/beam_{self.beams}/{measure}/all" for measure in MEASURES]

    def leading(self) -> str:
        return self.metrics()[0]

    def caption(self, summary: dict[str, Any]) -> str:
        return (
            f"sacreBLEU ({summary['signatures']['bleu']}) and chrF in percent, {summary['test_samples']:,} test sentences, mean "
            f"and 95% interval over {self.seeds} seeds and the finite test split; the random encoder has the same training"
        )
