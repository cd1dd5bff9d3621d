"""The views of every kind of input, as a recipe writes them: those of images where `kind` says nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from ssl_pipeline.part import kind_of
from ssl_pipeline.pretext.series_views import SeriesViews
from ssl_pipeline.pretext.spectrogram_views import SpectrogramViews
from ssl_pipeline.pretext.views import Views

VIEWS_OF: dict[str, type[Any]] = {"image": Views, "audio": SpectrogramViews, "series": SeriesViews}
"""What suits each kind of encoder."""


if TYPE_CHECKING:
    AnyViews = Views
else:
    tagged = tuple(Annotated[views, Tag(views.model_fields["kind"].default)] for views in VIEWS_OF.values())
    AnyViews = Annotated[Union[tagged], Discriminator(kind_of)]  # noqa: UP007


def suited(views: Any, encoder_kind: str, field: str, image_views: Views | None = None) -> Any:
    """`views`, or where they are None those that suit this kind of encoder (`image_views` for images); None where there are
    none for it. Raises ValueError, naming `field`, where they are of another kind."""
    suits = VIEWS_OF.get(encoder_kind)
    if views is None:
        return image_views if encoder_kind == "image" and image_views else suits and suits()
    if suits is None or not isinstance(views, suits):
        wanted = f"write kind: {suits.model_fields['kind'].default}" if suits else "leave it out"
        raise ValueError(f"{field} of kind {views.kind} does not fit {encoder_kind} encoders: {wanted}")
    return views
