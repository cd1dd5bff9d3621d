"""Where time series may come from: what a recipe can say of a table of measurements."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import Part

Column = Annotated[str, Field(min_length=1)]


class SeriesTable(Part):
    """A CSV or Parquet file with a row a time step and a column a channel. Samples are windows of `window` rows.

    Rows are put in order of time; of rows with the same time the first is kept. A window never runs over a gap, into another
    recording, or from one group, or split, to another.
    """

    kind: Literal["series"] = "series"
    modality: ClassVar[str] = "series"
    path: Annotated[str, Field(min_length=1)]
    series: Column | None = None
    """Column that says which recording a row belongs to; by default the table is one recording, which is split by time."""
    time: Column | None = None
    """Column with a number, a timestamp or a date in ISO 8601; by default the rows stand in order, without gaps."""
    channels: tuple[Column, ...] | None = Field(None, min_length=1)
    """Columns with the measurements; by default all numeric ones that are not named for something else."""
    label: Column | None = None
    """Column whose value is a window's label where more than half of its rows have it."""
    group: Column | None = None
    """Column whose equal values never stand in two splits: a patient, a machine. By default the recording."""
    split: Column | None = None
    """Column that says train, validation (val, valid) or test."""
    window: int | None = Field(None, ge=2)
    """Rows a sample; by default a whole recording."""
    stride: int | None = Field(None, ge=1)
    """Rows from one window's start to the next; by default the window, so that no row is in two."""
    max_gap: float = Field(3.0, gt=1)
    """Longest step in time, in median steps of its recording; a longer one is a gap that windows do not cross."""
    max_missing: float = Field(0.1, ge=0, lt=1)
    """Largest share of a channel's values that may be missing in a window. They are interpolated linearly, at the ends with
    the nearest value; a window with more is left out."""

    @model_validator(mode="after")
    def columns_differ(self) -> Self:
        single = [c for c in (self.series, self.time, self.label, self.group, self.split) if c is not None]
        single = [c for c in single if not (c == self.series == self.group)]  # a recording that is its own group
        named = single + list(self.channels or ())
        if twice := [column for column in named if named.count(column) > 1]:
            raise ValueError(
                f"column {twice[0]!r} is named for two purposes: series, time, channels, label, group and split must differ"
            )
        return self

    @model_validator(mode="after")
    def stride_fits(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError(f"stride {self.stride} needs a window: set window to the rows of a sample, or drop stride")
        return self
