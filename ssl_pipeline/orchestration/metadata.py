"""What a stage looks like in the Dagster UI: its summary as numbers and tables, its pictures, its place on disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ssl_pipeline.record import mlflow_ui
from ssl_pipeline.store import Stage

LARGEST_PICTURE = 400_000
"""Bytes of a PNG that goes into Dagster's event log as it is; above that it is scaled down."""

HIDDEN = {"baselines", "controls", "mlflow_url", "labels_saved"}
"""What is shown in another form: in the table of metrics, as a link, as a sentence."""

TRAINING = "?workflowType=machine_learning"
"""Without it MLflow's pages show the menu of its other half, for language models, in which there is no registry."""

Metadata = dict[str, dg.MetadataValue[Any]]


def of(stage: Stage) -> Metadata:
    """Everything worth showing of a finished stage: links and pictures first, long tables and where it lies last."""
    made: Metadata = {"made": dg.TextMetadataValue("reused" if stage.reused else "computed")}
    shown: Metadata = {}
    for name, value in stage.summary.items():
        if name not in HIDDEN and value is not None and value not in ({}, []):
            shown[name.removesuffix("_say")] = _shown(name, value, stage.summary.get("baselines") or {})
    # the page shows Markdown at a click on its name's row only, so the name says that there is a picture
    pictures = {
        f"picture: {_title(p)}": dg.MarkdownMetadataValue(_picture(p)) for p in sorted(stage.path.glob("*.png"))
    }
    texts = {name: value for name, value in shown.items() if isinstance(value, dg.MarkdownMetadataValue)}
    tables = {name: value for name, value in shown.items() if isinstance(value, dg.TableMetadataValue)}
    tables = dict(sorted(tables.items(), key=lambda table: table[0] != "metrics"))
    values = {name: value for name, value in shown.items() if name not in texts | tables}
    folder: Metadata = {"folder": dg.PathMetadataValue(str(stage.path))}
    return made | _links(stage.summary) | texts | pictures | values | tables | folder


def _shown(name: str, value: Any, baselines: Mapping[str, Any]) -> dg.MetadataValue[Any]:
    match value:
        case str() if name == "table":
            return dg.MarkdownMetadataValue(value)
        case bool():
            return dg.BoolMetadataValue(value)
        case int():
            return dg.IntMetadataValue(value)
        case float():
            return dg.FloatMetadataValue(value)
        case dict() if name == "metrics":
            return _accuracies(value, baselines)
        case dict() if all(isinstance(v, int | float | str) for v in value.values()):
            return _table([{name: k, "value": v} for k, v in value.items()])
        case list() if all(isinstance(v, dict) for v in value):
            return _table(value)
        case list() if all(isinstance(v, int | float | str) for v in value):
            return dg.TextMetadataValue(", ".join(map(str, value)))
        case dict() | list():
            return dg.JsonMetadataValue(value)
    return dg.TextMetadataValue(str(value))


def _accuracies(metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> dg.TableMetadataValue:
    """One row a metric, with its interval, of the recipe first and then of each baseline."""
    methods = {"this recipe": metrics, **baselines}
    names = list(dict.fromkeys(m for values in methods.values() for m in values))
    # the asset says which evaluation it is; without that, with three digits and where names can wrap, a row fits into the page
    kind = f"{names[0].partition('/')[0]}/" if names else ""
    return _table(
        [
            {"metric": metric.removeprefix(kind).replace("/", " / "), "method": method}
            | {end: _short(v[end]) for end in ("mean", "low", "high")}
            for metric in names
            for method, values in methods.items()
            if (v := values.get(metric))
        ]
    )


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    kinds = {c: {type(row.get(c)) for row in rows} for c in columns}
    schema = [
        dg.TableColumn(c, type="bool" if k == {bool} else "float" if k <= {int, float} else "string")
        for c, k in kinds.items()
    ]
    records = [
        dg.TableRecord({c: row.get(c) if isinstance(row.get(c), int | float) else str(row.get(c, "")) for c in columns})
        for row in rows
    ]
    return dg.TableMetadataValue(records, dg.TableSchema(columns=schema))


def _links(summary: Mapping[str, Any]) -> Metadata:
    links: Metadata = {}
    if "mlflow_url" in summary:
        links["mlflow run"] = dg.UrlMetadataValue(f"{mlflow_ui()}/{summary['mlflow_url']}{TRAINING}")
    if str(summary.get("uri", "")).startswith("models:/"):
        links["mlflow model"] = dg.UrlMetadataValue(
            f"{mlflow_ui()}/#/models/{summary['name']}/versions/{summary['version']}{TRAINING}"
        )
    return links


def _title(picture: Path) -> str:
    return picture.stem.replace("_", " ")


def _picture(path: Path) -> str:
    data = path.read_bytes()
    if len(data) > LARGEST_PICTURE:
        data = _smaller(data)
    return f"![{_title(path)}](data:image/png;base64,{base64.b64encode(data).decode()})"


def _smaller(data: bytes) -> bytes:
    """The same PNG with fewer pixels, below the limit."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    while len(data) > LARGEST_PICTURE:
        image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        data = file.getvalue()
    return data
