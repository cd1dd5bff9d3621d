"""What a recipe may say of a table of interactions: who chose what, when. Loads without pandas."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.part import Part

FilePath = Annotated[str, Field(min_length=1)]
"""Relative to the project's root, absolute, or from `~`."""
Column = Annotated[str, Field(min_length=1)]
"""Its name in the header; RecBole's types may be left out (`user_id` for `user_id:token`)."""


class InteractionsSource(Part):
    """A CSV, TSV, Parquet or RecBole `.inter` file with a row an interaction, and perhaps a second one with a row an item.

    A sample is a user. Split leave-one-out by time: a user's last interaction is the test split's, the last but one the
    validation split's, all before them the training split's.
    """

    kind: Literal["interactions"] = "interactions"
    path: FilePath
    user: Column = "user"
    item: Column = "item"
    timestamp: Column = "timestamp"
    """Column with numbers in any one unit, or with dates and times (ISO 8601)."""
    rating: Column | None = None
    """Column with numbers; kept, and used where `min_rating` asks for it."""
    min_rating: float | None = Field(None, allow_inf_nan=False)
    """Interactions rated lower are no interactions; nor are those without a rating."""
    k_core: int = Field(5, ge=1, le=1000)
    """Users with fewer interactions and items with fewer are left out, again and again until none is left to leave out;
    a user has 3 at least in any case, one for each split."""
    items: FilePath | None = None
    """A table with a row an item."""
    item_id: Column = "item"
    """Column of the items table that holds what `item` holds in the interactions."""
    title: Column | None = None
    text: Column | None = None
    image: Column | None = None
    """Column with an image's path, relative to the items table's folder, or with its bytes (Parquet)."""

    @property
    def modality(self) -> str:
        return "interactions"

    @model_validator(mode="after")
    def columns_make_sense(self) -> Self:
        for named in (
            {"user": self.user, "item": self.item, "timestamp": self.timestamp, "rating": self.rating},
            {"item_id": self.item_id, "title": self.title, "text": self.text, "image": self.image},
        ):
            columns = [column for column in named.values() if column is not None]
            if twice := [column for column in columns if columns.count(column) > 1]:
                raise ValueError(f"column {twice[0]!r} is named for two purposes: {', '.join(named)} must differ")
        if self.min_rating is not None and self.rating is None:
            raise ValueError(f"min_rating {self.min_rating:g} needs ratings: name their column in rating")
        if not self.items and (lost := [f for f in ("title", "text", "image") if getattr(self, f)]):
            raise ValueError(f"{lost[0]} names a column of the items table: give its path in items")
        return self
