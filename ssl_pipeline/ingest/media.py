"""The modality that each kind of source yields, as ingestion sees it."""

from __future__ import annotations

from ssl_pipeline.ingest.images import Images
from ssl_pipeline.ingest.medium import Medium

MEDIA: dict[str, Medium] = {"image": Images()}
