"""A registered model applied to data of its kind: one embedding a file, text or window, as Parquet.

What training would have quarantined is skipped, and the rest packed as the encoder's own data were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ssl_pipeline import tracking
from ssl_pipeline.encoders.encoder import settings_of
from ssl_pipeline.ingest import readers, series_table
from ssl_pipeline.ingest.item import BadSample, Item, Reading
from ssl_pipeline.ingest.look import usual_steps
from ssl_pipeline.ingest.media import MEDIA
from ssl_pipeline.ingest.medium import Medium
from ssl_pipeline.ingest.sniff import source_of
from ssl_pipeline.ingest.source_series import SeriesTable
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker
from ssl_pipeline.tracking import model as models

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import EncoderPart

BATCH = 64
MEDIUM = {"image_text": "image"}
"""What an encoder is given, where it is not its kind: the tower of the images is what is registered."""


def embed(project: Project, model_uri: str, path: Path, output: Path, say: Callable[[str], None]) -> int:
    """Writes columns `source` and `embedding` (float32, fixed length) of a folder, an archive, a table or a text file, in its
    order; what cannot be used is reported and left out. Returns the number of rows.

    Raises PipelineError where the model is unknown, the data are of another kind, or nothing can be used.
    """
    if output.suffix != ".parquet":
        raise PipelineError(f"{output}: embeddings are written as Parquet: name a file that ends in .parquet")
    tracker = open_tracker(project)
    with tracking.downloaded(tracker, model_uri) as (version, folder):
        about = tracking.recorded(folder)
        model, takes = models.read(folder)
    settings, facts = settings_of(about["encoder"]), about["facts"]
    medium = MEDIUM.get(settings.kind, settings.kind)
    reading = read(path, medium, settings, facts)
    pack = import_module(f"ssl_pipeline.pretext.packing.{settings.kind}").packer(settings, facts)
    schema = pa.schema([("source", pa.string()), ("embedding", pa.list_(pa.float32(), takes["dim"]))])
    schema = schema.with_metadata({"model": f"models:/{version.name}/{version.version}"})
    skipped: list[str] = []

    def samples() -> Iterator[tuple[str, np.ndarray]]:
        for item in reading.items:
            try:
                row = as_stored(MEDIA[medium], item)
            except BadSample as reason:
                skipped.append(item.source)
                say(f"skipped {item.source}: {reason}")
                continue
            yield item.source, pack(row)

    rows = 0
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(fresh, schema) as file, torch.inference_mode():
            for names, batch in batches(samples()):
                embeddings = model(torch.from_numpy(batch.astype(takes["dtype"]))).numpy().astype(np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), takes["dim"])
                file.write_table(pa.table([pa.array(names), column], schema=schema))
                rows += len(names)
        if not rows:
            said = f": none of {len(skipped)} samples is usable" if skipped else ": holds nothing"
            raise PipelineError(f"{path}{said}: name a folder, an archive or a table of {medium}")
        fresh.replace(output)
    except OSError as error:
        raise PipelineError(f"cannot write {output}: {error.strerror}; choose another place with -o") from error
    finally:
        fresh.unlink(missing_ok=True)
    left_out = f"; {len(skipped)} skipped" if skipped else ""
    say(f"{rows} embeddings of {takes['dim']} numbers in {output}{left_out}")
    return rows


def read(path: Path, medium: str, settings: EncoderPart, facts: dict[str, Any]) -> Reading:
    """The data at `path`. Of series the encoder's own channels; recordings of two of its lengths or more are cut into windows
    of that length, and shorter ones are taken whole."""
    if medium == "interactions":
        raise PipelineError(
            "a model of interactions takes histories of numbered items and no files: load it with mlflow and call it"
        )
    source = source_of(path)
    if source.modality != medium and not (medium == "image" and source.modality == "image_text"):
        raise PipelineError(
            f"{path}: looks like {source.modality}, and the model takes {medium}: name data of that kind"
        )
    if not isinstance(source, SeriesTable):
        return readers.read(source, Path())
    source = source.model_copy(update={"channels": tuple(facts["names"])})
    length = settings.length  # type: ignore[attr-defined]
    if source.series is None or usual_steps(source) >= 2 * length:
        source = source.model_copy(update={"window": length})
    return series_table.read(source, path, validation=0, test=0)


def as_stored(medium: Medium, item: Item) -> dict[str, Any]:
    """The sample as a shard gives it back, its numbers in float32: of a video they decide where its middle is."""
    values = medium.read(item.load(), item.extra).columns
    kept = {name: pa.scalar(values[name], kind).as_py() for name, (kind, _) in medium.columns.items()}
    return {"source": item.source} | kept


def batches(samples: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
    names: list[str] = []
    held: list[np.ndarray] = []
    for name, sample in samples:
        names.append(name)
        held.append(sample)
        if len(held) == BATCH:
            yield names, np.stack(held)
            names, held = [], []
    if held:
        yield names, np.stack(held)
