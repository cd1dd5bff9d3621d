"""`ssl-pipeline new`: from data that nobody has described to a recipe that runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_pipeline import pretext, recipe
from ssl_pipeline.ingest.look import Findings, look
from ssl_pipeline.orchestration.defs_folder import defs_folder
from ssl_pipeline.orchestration.scaffold import CLASSIFICATION, dataset_attributes, document, pretraining_attributes
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext import names_of
from ssl_pipeline.project import Project

TASKS = {
    "image": "simclr", "audio": "simclr", "video": "frame_order", "text": "text_crops", "image_text": "clip",
    "interactions": "next_item", "series": "simclr",
}  # fmt: skip
"""The task to begin with."""
PAIRS_TASK = "masked_language"
"""That of texts with another side: a decoder reads tokens, not a document's embedding."""


def write(project: Project, name: str, data: Path, task: str | None = None) -> tuple[Path, Findings]:
    """Looks at `data` and writes `<defs>/<name>/defs.yaml`: a dataset and a recipe, both called `name`. Without a pretext `task`
    the modality's usual one.

    Returns the file and what was found. Raises PipelineError; nothing is overwritten.
    """
    file = defs_folder(project) / name / "defs.yaml"
    if file.exists():
        raise PipelineError(f"{file} exists: choose another name or edit that file")
    found = look(data.expanduser().absolute())
    source = found.source.model_dump(mode="json", exclude_defaults=True) | {"kind": found.source.kind}
    source = {"kind": source.pop("kind"), **source, "path": portable(Path(source["path"]), project.root)}
    dataset = dataset_attributes(name, source)
    # a few steps an epoch at least, also where there are few samples
    batch_size = next((size for size in (256, 128, 64, 32) if size * 10 <= found.samples), 16)
    modality = found.source.modality
    task = task or (PAIRS_TASK if found.pairs else TASKS[modality])
    encoder = dict(found.encoder)
    if modality in ("image", "video") and not has_gpu():
        encoder["stem"] = "half"
    attributes = pretraining_attributes(name, name, encoder, task, evaluations(found, task), batch_size)
    validate(recipe.Dataset, dataset)
    validate(recipe.Recipe, attributes)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".defs.yaml.{os.getpid()}")
    fresh.write_text(f"{document('Dataset', dataset)}---\n{document('Pretraining', attributes)}")
    fresh.replace(file)
    return file, found


def evaluations(found: Findings, task: str) -> list[dict[str, Any]]:
    """What can be measured of this data, and of this task."""
    modality = found.source.modality
    if modality in ("image_text", "interactions"):
        return [{"kind": "retrieval" if modality == "image_text" else "recommendation"}]
    if modality == "image" and found.source.kind in ("coco", "voc"):
        return [{"kind": "detection"}]
    if found.source.kind == "masks":
        quicker = {} if has_gpu() else {"supervised_steps": 50}
        return [{"kind": "segmentation", "stage": fine_stage(found.encoder["image_size"])} | quicker]
    if found.pairs:
        return [{"kind": "translation"} | ({} if has_gpu() else {"layers": 1, "width": 128, "steps": 300, "seeds": 2})]
    if modality == "series" and (not found.classes or len(found.classes) < 2):
        return [{"kind": "forecasting", "horizon": min(16, max(1, found.encoder["length"] // 4))}]
    if not found.classes or len(found.classes) < 2:
        return [{"kind": "pretext"}] if task in names_of(known for known in pretext.TASKS if known.keeps_head) else []
    fewest = min(found.classes.values()) * (1 - recipe.Split().validation - recipe.Split().test)
    shots = [shots for shots in (10, 100) if shots < fewest] + ["all"]
    quicker = {} if has_gpu() else {"supervised_steps": 100}
    return [CLASSIFICATION | {"shots": shots} | quicker]


def fine_stage(side: int) -> int:
    """The last stage of a ResNet whose map has 8 places a side at least, or the third from the end."""
    stride = 32 if has_gpu() else 16  # with a stem that halves
    return next((stage for stage in (-1, -2) if side * 2 ** (-1 - stage) // stride >= 8), -3)


def describe(found: Findings) -> list[str]:
    """What was found, as lines for a person."""
    lines = [f"found   {found.samples:,} samples: {found.about}; {found.unusable:.0%} of those looked at are unusable"]
    if found.classes:
        names = list(found.classes)
        lines.append(f"labels  {len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    if not has_gpu():
        lines.append("note    No NVIDIA GPU here: the recipe is made for a short training.")
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
