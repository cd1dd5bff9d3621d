"""The encoders of every modality, as a recipe writes them: one of images where `kind` says nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from ssl_pipeline.encoders.settings import EncoderPart, ImageEncoder
from ssl_pipeline.encoders.settings_audio import AudioEncoder
from ssl_pipeline.encoders.settings_image_text import ImageTextEncoder
from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder
from ssl_pipeline.encoders.settings_series import SeriesEncoder
from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.part import kind_of

PARTS: tuple[Any, ...] = (
    ImageEncoder, AudioEncoder, VideoEncoder, TextEncoder, ImageTextEncoder, InteractionsEncoder, SeriesEncoder
)  # fmt: skip
ENCODERS: dict[str, type[EncoderPart]] = {part.model_fields["kind"].default: part for part in PARTS}
"""By kind."""


if TYPE_CHECKING:
    AnyEncoder = Any
else:
    AnyEncoder = Annotated[
        Union[tuple(Annotated[part, Tag(kind)] for kind, part in ENCODERS.items())], Discriminator(kind_of)  # noqa: UP007
    ]
