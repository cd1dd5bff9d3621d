"""The pictures that stages show: arrays and numbers in, PNG bytes out. The same input gives the same bytes."""

from ssl_pipeline.report.charts import confusion, curves, efficiency
from ssl_pipeline.report.sheets import neighbours, sheet

__all__ = ["confusion", "curves", "efficiency", "neighbours", "sheet"]
