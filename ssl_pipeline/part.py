"""The base of everything a user can write in a recipe, and the one error that is meant for a user's eyes."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A piece of the recipe: immutable, and a key it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PipelineError(Exception):
    """Something a user can cure. The message is one line: the thing, what is wrong with it, what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'resnet18'?"` for a near miss, otherwise an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


class late:
    """A module that is imported when it is first used: `torch = late("torch")`. Importing torch takes seconds, and
    loading a recipe must not."""

    _made: ClassVar[list[late]] = []

    def __init__(self, module: str) -> None:
        self._module = module
        self._made.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)

    @classmethod
    def settle(cls) -> None:
        """Imports what a training step uses and keeps its attributes for good: torch.compile cannot trace an import."""
        for one in cls._made:
            if one._module.startswith(("torch", "timm", "ssl_pipeline.pretext")):
                vars(one).update(vars(importlib.import_module(one._module)))
