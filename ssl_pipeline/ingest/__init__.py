"""Source -> dataset: readers, decoding, quarantine, splits and Parquet shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Dataset
    from ssl_pipeline.store import Stage, Store

CODE_VERSION = "2"
"""Raise it when the same source would give other shards, or another summary."""


def build(
    dataset: Dataset, store: Store, digest_of: Callable[[Path], str], root: Path, say: Callable[[str], None] = print
) -> Stage:
    """The dataset's stage, ingested unless its source is unchanged. `digest_of(tree)` is kept as summary["digest"].

    Relative source paths are relative to `root`. Raises PipelineError naming the dataset.
    """
    from ssl_pipeline.ingest import readers  # Pillow and pyarrow: a recipe loads without them
    from ssl_pipeline.ingest.dataset import write
    from ssl_pipeline.ingest.sources import Demo

    def fill(folder: Path) -> dict[str, Any]:
        if dataset.source.modality == "interactions":
            from ssl_pipeline.ingest import demo_interactions, interactions

            source: Any = demo_interactions.movielens_100k() if isinstance(dataset.source, Demo) else dataset.source
            summary = interactions.write(source, folder / "tree", root, dataset.name, dataset.max_quarantined)
        else:
            summary = write(dataset, root, folder / "tree")
        splits = ", ".join(f"{count:,} {split}" for split, count in summary["splits"].items())
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["reasons"].items())
        say(
            f"dataset {dataset.name!r}: {summary['samples']:,} samples ({splits})"
            + (f"; quarantined: {reasons}" if reasons else "")
        )
        for note in summary.get("notes", []):
            say(f"note: {note}")
        return {"digest": digest_of(folder / "tree"), **summary}

    config = dataset.model_dump(mode="json", include={"name", "source", "split", "max_quarantined"})
    try:
        inputs = {"source": readers.fingerprint(dataset.source, root)}
        return store.build("dataset", config, inputs, CODE_VERSION, fill, on_wait=say)
    except PipelineError as error:
        raise PipelineError(f"dataset {dataset.name!r}: {error}") from error
