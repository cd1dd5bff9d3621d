"""The base of everything a user can write in a recipe, and the one error that is meant for a user's eyes."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)


class Part(BaseModel):
    """A piece of the recipe: immutable, and a key it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OfKind(Part):
    """A member of a union that `kind` tells apart, and that is an image's where nobody says: in the JSON schema, by which
    Dagster checks YAML, all others must say their kind."""

    kind: str

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.model_fields["kind"].default != "image":
            schema.setdefault("required", []).append("kind")
        return schema


def kind_of(value: Any) -> str:
    """Of a member of such a union, as written or as made; an image's where nothing else is said."""
    return str(value.get("kind", "image")) if isinstance(value, dict) else str(getattr(value, "kind", "image"))


class Document(Part):
    """What stands in a file of its own. Its errors name places as they are in the file: pydantic puts the chosen member of a
    union, which nobody wrote, between a field and what is in it."""

    @model_validator(mode="wrap")
    @classmethod
    def errors_name_what_was_written(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            details: list[Any] = [
                told(one) | {"loc": written(one["loc"], one["type"], value)}
                for one in error.errors()
                if one["type"] != "default_factory_not_called"  # another fault's consequence
            ]
            raise ValidationError.from_exception_data(error.title, details) from None


def told(fault: Any) -> dict[str, Any]:
    """The fault or, where pydantic's words are for programmers, the same in ours."""
    if fault["type"] == "extra_forbidden":
        words = f"there is no such key{did_you_mean(str(fault['loc'][-1]), keys(Part))}"
    elif fault["type"] == "union_tag_invalid":
        names, tag = re.findall(r"'([^']*)'", fault["ctx"]["expected_tags"]), fault["ctx"]["tag"]
        words = f"{tag!r} is none of {', '.join(names)}{did_you_mean(tag, names)}"
    else:
        return fault
    return fault | {"type": "value_error", "ctx": {"error": ValueError(words)}}


def keys(part: type[BaseModel]) -> set[str]:
    """Of all parts of recipes."""
    return set(part.model_fields) | {name for one in part.__subclasses__() for name in keys(one)}


def written(place: tuple[int | str, ...], fault: str, value: Any) -> tuple[int | str, ...]:
    """The place without what is not in `value`; a missing field stays."""
    kept: list[int | str] = []
    for i, part in enumerate(place):
        inside = isinstance(value, dict) and part in value
        inside = inside or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value))
        if inside or (fault == "missing" and i == len(place) - 1):
            kept.append(part)
            value = value[part] if inside else None
    return tuple(kept)


class PipelineError(Exception):
    """Something a user can cure. The message is one line: the thing, what is wrong with it, what to do."""


class Away(PipelineError):
    """A server does not answer: asking again may help."""


AWAY = re.compile(
    r"connection refused|timed? ?out|locked|aborted|reset by|closed (the )?connection|unreachable|starting up|shutting down|"
    r"resolve|name or service not known|translate host name|(error code|too many) 50[234]",
    re.IGNORECASE,
)


def unreached(reason: str) -> type[PipelineError]:
    """The kind of error for what a client of a server or a database says. Most tell by their words alone."""
    return Away if AWAY.search(reason) else PipelineError


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
