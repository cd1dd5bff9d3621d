"""The pictures that stages show: arrays, texts and numbers in, PNG bytes out. The same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_pipeline.report import sheets
from ssl_pipeline.report.boxes import bars, detections
from ssl_pipeline.report.charts import confusion, corruptions, curves, efficiency, projection
from ssl_pipeline.report.cost import cost
from ssl_pipeline.report.forecasts import forecasts
from ssl_pipeline.report.learning import learning
from ssl_pipeline.report.masks import segmentations
from ssl_pipeline.report.texts import text_sheet

__all__ = [
    "bars",
    "confusion",
    "corruptions",
    "cost",
    "curves",
    "detections",
    "efficiency",
    "forecasts",
    "learning",
    "neighbours",
    "projection",
    "segmentations",
    "sheet",
]


def sheet(
    rows: np.ndarray | list[list[str]], column_titles: Sequence[str] = (), row_titles: Sequence[str] = ()
) -> bytes:
    """Rows of images, or of texts, with titles."""
    if isinstance(rows, list):
        return text_sheet(rows, column_titles)
    return sheets.sheet(rows, column_titles, row_titles)


def neighbours(queries: Any, retrieved: Any, correct: np.ndarray | None = None) -> bytes:
    """Queries and what was retrieved for each, images or texts, nearest first."""
    if not isinstance(queries, list):
        return sheets.neighbours(queries, retrieved, correct)
    shown = 3
    rows = [[query, *found[:shown]] for query, found in zip(queries, retrieved, strict=True)]
    titles = ["query", "nearest neighbour", *("",) * (len(rows[0]) - 2)]
    return text_sheet(rows, titles, None if correct is None else correct[:, :shown])
