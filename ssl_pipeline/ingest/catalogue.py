"""The items that interactions are about: their identifiers, how often they were chosen, and what a table says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest import columns, table
from ssl_pipeline.ingest.images import decode
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE
from ssl_pipeline.ingest.source_interactions import InteractionsSource

GROUP_ROWS = 256
"""Items whose images are in memory at a time."""
VALUE = {"_type": "Value"}


def write(source: InteractionsSource, root: Path, items: list[str], chosen: np.ndarray, tree: Path) -> dict[str, int]:
    """Writes items.parquet: `item`, `interactions` (how often it was chosen, all splits together) and those of `title`,
    `text`, `image` that the source names, for each of `items` that was `chosen`, in their order. The file is a table that
    other recipes can read: an encoder of images or texts can be trained on it.

    Of several rows of one item the first counts; an image that cannot be decoded is null. Returns {column: how many items
    have it}. Raises PipelineError where the table is missing or lacks a column.
    """
    kept = np.flatnonzero(chosen)
    names = [items[i] for i in kept]
    known = {c: column for c in ("title", "text", "image") if (column := getattr(source, c))}
    features = {"item": VALUE | {"dtype": "string"}, "interactions": VALUE | {"dtype": "int64"}}
    features |= {c: {"_type": "Image"} if c == "image" else VALUE | {"dtype": "string"} for c in known}
    schema = pa.schema(
        [("item", pa.string()), ("interactions", pa.int64())]
        + [(c, FILE if c == "image" else pa.string()) for c in known],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    described = about(source, root, names, known) if known else None
    counts = dict.fromkeys(known, 0)
    with pq.ParquetWriter(tree / "items.parquet", schema, compression="zstd") as writer:
        for at in range(0, len(names), GROUP_ROWS):
            part = slice(at, at + GROUP_ROWS)
            cells: dict[str, Any] = {"item": names[part], "interactions": chosen[kept[part]]}
            for column in known:
                assert described is not None
                values = described[column][part]
                cells[column] = [image(value) for value in values] if column == "image" else values
                counts[column] += sum(value is not None for value in cells[column])
            writer.write_table(pa.table(cells, schema=schema))
    return counts


def about(source: InteractionsSource, root: Path, names: list[str], known: dict[str, str]) -> dict[str, list[Any]]:
    """The table's cells for each of the named items, None where it says nothing: texts, or what loads an image."""
    path = root / Path(source.items or "").expanduser()
    found = columns.read(path, {"item": source.item_id} | known, ids=("item",), long_text=True)
    code, distinct = columns.identifiers(found.table["item"], f"{path}: item")
    place = {name: number for number, name in enumerate(distinct)}
    first = np.full(len(distinct) + 1, -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    first[-1] = -1  # rows without an identifier (code -1) wrote here
    rows = first[[place.get(name, -1) for name in names]]
    cells: dict[str, list[Any]] = {}
    for column in known:
        taken = found.table[column].take(pa.array(rows, mask=rows < 0))
        if column == "image":
            numbers = np.where(rows < 0, 0, found.row[rows])
            folder = path.parent.resolve()
            cells[column] = [
                value and table.file_in_cell(value, int(number), folder)[1]
                for value, number in zip(taken.to_pylist(), numbers, strict=True)
            ]
        else:
            cells[column] = [value and str(value) for value in taken.to_pylist()]
    return cells


def image(load: Any) -> dict[str, Any] | None:
    """A cell of the image column, None where there is no usable image."""
    if load is None:
        return None
    try:
        data = load()
        decode(data)
    except BadSample:
        return None
    return {"bytes": data, "path": None}
