"""A registered model applied to any images: one embedding a file, as Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ssl_pipeline import tracking
from ssl_pipeline.ingest import readers
from ssl_pipeline.ingest.images import BadSample, decode, to_square
from ssl_pipeline.ingest.sniff import source_of
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project

BATCH = 64


def embed(project: Project, model_uri: str, path: Path, output: Path, say: Callable[[str], None]) -> int:
    """Writes columns `source` and `embedding` (float32, fixed length) of a folder, an archive or a table of images, in
    its order; what cannot be read is reported and left out. Returns the number of rows.

    Raises PipelineError where the model is unknown or nothing can be read.
    """
    if output.suffix != ".parquet":
        raise PipelineError(f"{output}: embeddings are written as Parquet: name a file that ends in .parquet")
    source = source_of(path)
    model, info = tracking.load(tracking.Tracker(project.tracking_uri, project.artifacts), model_uri)
    if info["dtype"] != "uint8" or len(info["shape"]) != 3:
        raise PipelineError(
            f"{model_uri}: takes {info['dtype']} {info['shape']} and no images: load it with mlflow and call it"
        )
    channels, side, _ = info["shape"]
    schema = pa.schema([("source", pa.string()), ("embedding", pa.list_(pa.float32(), info["dim"]))])
    schema = schema.with_metadata({"model": f"models:/{info['name']}/{info['version']}"})
    skipped: list[str] = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for item in readers.read(source, Path()).items:
            try:
                image = decode(item.load(), channels)
            except BadSample as reason:
                skipped.append(item.source)
                say(f"skipped {item.source}: {reason}")
                continue
            yield item.source, to_square(image, side, channels)

    rows = 0
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(fresh, schema) as file, torch.inference_mode():
            for names, batch in batches(images()):
                embeddings = model(torch.from_numpy(batch)).numpy().astype(np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), info["dim"])
                file.write_table(pa.table([pa.array(names), column], schema=schema))
                rows += len(names)
        if not rows:
            said = f": none of {len(skipped)} files is usable" if skipped else " holds no files"
            raise PipelineError(f"{path}{said}: name a folder, an archive or a table of images")
        fresh.replace(output)
    except OSError as error:
        raise PipelineError(f"cannot write {output}: {error.strerror}; choose another place with -o") from error
    finally:
        fresh.unlink(missing_ok=True)
    left_out = f"; {len(skipped)} files skipped" if skipped else ""
    say(f"{rows} embeddings of {info['dim']} numbers in {output}{left_out}")
    return rows


def batches(images: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
    names: list[str] = []
    held: list[np.ndarray] = []
    for name, image in images:
        names.append(name)
        held.append(image)
        if len(held) == BATCH:
            yield names, np.stack(held)
            names, held = [], []
    if held:
        yield names, np.stack(held)
