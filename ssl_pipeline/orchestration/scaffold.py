"""New datasets and recipes as YAML, for `dg scaffold defs` and for `ssl-pipeline new`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from pydantic import ValidationError

from ssl_pipeline import recipe

CLASSIFICATION = {"kind": "classification", "shots": [10, 100, "all"]}


class DatasetScaffolder(dg.Scaffolder):
    """`dg scaffold defs ssl_pipeline.Dataset cats`"""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        name = name_of(request)
        dg.scaffold_component(request, dataset_attributes(name, {"kind": "image_folder", "path": f"~/images/{name}"}))


class PretrainingScaffolder(dg.Scaffolder):
    """`dg scaffold defs ssl_pipeline.Pretraining cats_simclr`: on the first dataset that the project has."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        name = name_of(request)
        defs = next((p for p in request.target_path.parents if p.name == "defs"), request.target_path.parent)
        dataset = first_dataset(defs) or name.rpartition("_")[0] or name
        encoder = {"backbone": "resnet18", "image_size": 64}
        dg.scaffold_component(request, pretraining_attributes(name, dataset, encoder, "simclr", [CLASSIFICATION]))


def dataset_attributes(name: str, source: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "source": source}


def pretraining_attributes(
    name: str,
    dataset: str,
    encoder: dict[str, Any],
    pretext: str,
    evaluations: list[dict[str, Any]],
    batch_size: int = 256,
) -> dict[str, Any]:
    """A recipe with the fields that people change first."""
    return {
        "name": name,
        "dataset": dataset,
        "encoder": encoder,
        "pretext": {"task": pretext},
        "pretrain": {"epochs": 20, "batch_size": batch_size, "seed": 0},
        "evaluations": evaluations,
        "promote": {"minimum": 0.0} if evaluations else None,
    }


def document(kind: str, attributes: dict[str, Any]) -> str:
    """One YAML document of a `defs.yaml`."""
    return yaml.safe_dump(
        {"type": f"ssl_pipeline.{kind}", "attributes": attributes},
        sort_keys=False, default_flow_style=None, allow_unicode=True, width=100,
    )  # fmt: skip


def name_of(request: dg.ScaffoldRequest) -> str:
    """A legal name out of the folder's."""
    folder = request.target_path.parent if request.append else request.target_path
    return re.sub(r"^[^a-z]+", "", re.sub(r"\W+", "_", folder.name.lower())) or "new"


def first_dataset(defs: Path) -> str | None:
    """The first of images."""
    for file in sorted(defs.rglob("defs.yaml")):
        for found in yaml.safe_load_all(file.read_text()):
            if isinstance(found, dict) and found.get("type") == "ssl_pipeline.Dataset":
                try:
                    config = recipe.Dataset.model_validate(found.get("attributes") or {})
                except ValidationError:  # is told where it is loaded
                    continue
                if config.source.modality == "image":
                    return config.name
    return None
