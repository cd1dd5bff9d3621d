"""`ssl-pipeline new`: from a folder that nobody has described to a recipe that runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_pipeline import recipe
from ssl_pipeline.ingest.look import Findings, look
from ssl_pipeline.orchestration.defs_folder import defs_folder
from ssl_pipeline.orchestration.scaffold import dataset_attributes, document, pretraining_attributes
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project


def write(project: Project, name: str, data: Path, pretext: str) -> tuple[Path, Findings]:
    """Looks at `data` and writes `<defs>/<name>/defs.yaml`: a dataset and a recipe, both called `name`.

    Returns the file and what was found. Raises PipelineError; nothing is overwritten.
    """
    file = defs_folder(project) / name / "defs.yaml"
    if file.exists():
        raise PipelineError(f"{file} exists: choose another name or edit that file")
    found = look(data.expanduser().absolute())
    source = found.source.model_dump(mode="json", exclude_defaults=True) | {"kind": found.source.kind}
    source = {"kind": source.pop("kind"), **source, "path": portable(Path(source["path"]), project.root)}
    dataset = dataset_attributes(name, source)
    # a few steps an epoch at least, also where there are few files
    batch_size = next((size for size in (256, 128, 64, 32) if size * 10 <= found.files), 16)
    classes = len(found.classes or {})
    attributes = pretraining_attributes(name, name, pretext, found.image_size, classes, batch_size)
    if classes > 1:
        fewest = min((found.classes or {}).values()) * (1 - recipe.Split().validation - recipe.Split().test)
        attributes["evaluations"][0]["shots"] = [shots for shots in (10, 100) if shots < fewest] + ["all"]
    if not has_gpu():
        attributes["encoder"]["stem"] = "half"
        for evaluation in attributes["evaluations"]:
            evaluation["supervised_steps"] = 100
    validate(recipe.Dataset, dataset)
    validate(recipe.Recipe, attributes)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".defs.yaml.{os.getpid()}")
    fresh.write_text(f"{document('Dataset', dataset)}---\n{document('Pretraining', attributes)}")
    fresh.replace(file)
    return file, found


def describe(found: Findings) -> list[str]:
    """What was found, as lines for a person."""
    height, width = found.size
    lines = [
        f"found   {found.files:,} files, {'grey' if found.channels == 1 else 'RGB'}, median {width} x {height} pixels, "
        f"{found.unreadable:.0%} of a sample unreadable"
    ]
    if found.classes:
        names = list(found.classes)
        lines.append(f"labels  {len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    if not has_gpu():
        lines.append("note    No NVIDIA GPU here: the recipe has a quicker stem and shorter supervised baselines.")
    return lines + [f"note    {note}" for note in found.notes]


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded; importing torch to ask takes seconds."""
    return Path("/proc/driver/nvidia/version").exists()


def portable(path: Path, root: Path) -> str:
    """Relative to the project where it lies inside it."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def validate(model: type[recipe.Dataset] | type[recipe.Recipe], attributes: dict[str, Any]) -> None:
    try:
        model.model_validate(attributes)
    except ValidationError as error:
        raise PipelineError(f"{attributes['name']!r} makes no recipe: {recipe.explain(error)}") from error
