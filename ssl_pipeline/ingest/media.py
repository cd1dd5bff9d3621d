"""What each kind of source yields, as ingestion sees it."""

from __future__ import annotations

from typing import Any

from ssl_pipeline.ingest.audio import Audio
from ssl_pipeline.ingest.image_masks import ImageMasks
from ssl_pipeline.ingest.image_objects import ImageObjects
from ssl_pipeline.ingest.image_text import ImageText
from ssl_pipeline.ingest.images import Images
from ssl_pipeline.ingest.medium import Medium
from ssl_pipeline.ingest.series import Series
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.ingest.video import Videos

MEDIA: dict[str, Medium] = {
    "image": Images(), "audio": Audio(), "video": Videos(), "text": Texts(), "image_text": ImageText(), "series": Series(),
    "objects": ImageObjects(), "masks": ImageMasks(), "translation": Texts(),
}  # fmt: skip


def medium_of(source: Any) -> Medium:
    """What the source yields: its modality as a rule, images with boxes or masks where it says so."""
    return MEDIA[getattr(source, "medium", source.modality)]
