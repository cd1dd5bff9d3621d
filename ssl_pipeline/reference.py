"""Every key of a recipe, from the models that check it: `python -m ssl_pipeline.reference > docs/recipe.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssl_pipeline.recipe import Dataset, Recipe

HEAD = """# Every key of a recipe

Made from the code by `python -m ssl_pipeline.reference`; a test keeps it so. A `defs.yaml` holds documents of `type:
ssl_pipeline.Dataset` and `type: ssl_pipeline.Pretraining`, with these keys under `attributes`. What has no default must be said.
"""
LIMITS = {
    "minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}", "pattern": "matches `{}`"
}  # fmt: skip


def reference() -> str:
    """Markdown: a table a part, those that are named first, first."""
    parts: dict[str, str] = {}
    for title, model in (("ssl_pipeline.Dataset", Dataset), ("ssl_pipeline.Pretraining", Recipe)):
        schema = model.model_json_schema()
        parts[title] = section(title, schema)
        waiting = list(referred(schema["properties"]))
        while waiting:
            name = waiting.pop(0)
            if name not in parts:
                part = schema["$defs"][name]
                parts[name] = section(name, part)
                waiting += referred(part.get("properties", {}))
    return "\n".join([HEAD, *parts.values()])


def section(title: str, schema: dict[str, Any]) -> str:
    chosen = ""
    rows = ["| key | what it takes | default | |", "|---|---|---|---|"]
    for key, value in schema.get("properties", {}).items():
        if "const" in value and key in ("kind", "task"):
            chosen = f"`{key}: {value['const']}`. "
            continue
        default = (
            shown(value["default"]) if "default" in value else "–" if key in schema.get("required", []) else "see there"
        )
        rows.append(f"| `{key}` | {takes(value)} | {default} | {one_line(value.get('description', ''))} |")
    said = one_line(schema.get("description", ""))
    return "\n".join([f"## {title}\n", f"{chosen}{said}\n", *(rows if len(rows) > 2 else [])]) + "\n"


def takes(value: dict[str, Any]) -> str:
    """A value's type and limits in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if several := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(takes(one) for one in several))
    if value.get("type") == "array":
        return f"list of {takes(value['items'])}" if isinstance(value.get("items"), dict) else "list"
    if value.get("type") == "object":
        return "mapping"
    kind = {"null": "nothing", "string": "text", "boolean": "true or false"}.get(
        value.get("type", ""), value.get("type", "anything")
    )
    limits = [form.format(value[name]) for name, form in LIMITS.items() if name in value]
    return " ".join([kind, *limits]).replace("|", "\\|")


def shown(default: Any) -> str:
    if default in (None, ""):
        return "nothing"
    if isinstance(default, dict):
        return "its own"
    if isinstance(default, list):
        return (
            f"`[{', '.join(map(str, default))}]`".replace("|", "\\|")
            if not any(isinstance(d, dict) for d in default)
            else "its own"
        )
    return f"`{str(default).lower() if isinstance(default, bool) else default}`".replace("|", "\\|")


def referred(value: Any) -> Iterator[str]:
    """Names of the parts that a schema refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for one in value.values():
            yield from referred(one)
    elif isinstance(value, list):
        for one in value:
            yield from referred(one)


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
