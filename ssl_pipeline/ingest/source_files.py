"""What several sources of files have in common: a pattern in their names, and lists of what is in each split."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from ssl_pipeline.part import Part

FilePath = Annotated[str, Field(min_length=1)]
"""Relative to the project's root, absolute, or from `~`."""


class Patterned(Part):
    """A source whose file names say more."""

    pattern: str | None = None
    """Regular expression with groups named `label` or `group`, searched in a file's path: `(?P<label>\\d)_(?P<group>[a-z]+)_`
    reads 7_jackson_3.wav as the digit 7 by the speaker jackson."""

    @field_validator("pattern")
    @classmethod
    def names_something(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            named = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if not named or named - {"label", "group"}:
            raise ValueError(
                f"{pattern!r} names {sorted(named) or 'nothing'}: name a part (?P<label>...) or (?P<group>...)"
            )
        return pattern


class Listed(Part):
    """A folder or an archive in which files may name what is in each split."""

    path: FilePath
    """Relative to the project's root, absolute, or from `~`."""
    train: FilePath | None = None
    validation: FilePath | None = None
    test: FilePath | None = None

    @property
    def named(self) -> dict[str, str]:
        """Split -> the file that names what is in it."""
        files = {split: getattr(self, split) for split in ("train", "validation", "test")}
        return {split: file for split, file in files.items() if file}

    @property
    def inside(self) -> dict[str, str | None]:
        """All that it names inside itself, by field."""
        return dict(self.named)

    @model_validator(mode="after")
    def files_differ_and_stay_inside(self) -> Self:
        for field, value in self.inside.items():
            if value and (value.startswith("/") or ".." in value.replace("\\", "/").split("/")):
                raise ValueError(f"{field} {value!r} leads out of the source: give a path inside it")
        files = list(self.named.values())
        if twice := [file for file in files if files.count(file) > 1]:
            raise ValueError(f"{twice[0]!r} is named for two splits: each needs a file of its own")
        return self
