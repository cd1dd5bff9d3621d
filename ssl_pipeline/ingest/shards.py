"""Parquet shards of a dataset: written while streaming, one open file a split; read by pandas, `datasets` and us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.medium import TEXT, Column, Medium
from ssl_pipeline.part import PipelineError

SHARD_BYTES = 64 << 20
"""Content bytes after which a new shard begins."""
GROUP_BYTES, GROUP_ROWS = 4 << 20, 1024
"""Content bytes or rows after which a row group is written: what a reader has to hold in memory."""

Row = dict[str, Any]


def schema_of(medium: Medium) -> pa.Schema:
    """What every sample has, and the medium's columns: its content first, its measures last."""
    (content, first), *measures = medium.columns.items()
    common = {"label": TEXT, "group": TEXT, "source": TEXT}
    columns: dict[str, Column] = {"sample_id": TEXT, content: first, **common, **dict(measures)}
    features = {name: feature for name, (_, feature) in columns.items()}
    return pa.schema(
        [(name, kind) for name, (kind, _) in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def weight(value: Any) -> int:
    """Bytes of a row's content."""
    return len(value["bytes"]) if isinstance(value, dict) else len(value)


class Shards:
    """Writes rows into `<tree>/<split>-00000.parquet` and so on. The same rows make the same bytes."""

    def __init__(self, tree: Path, medium: Medium) -> None:
        schema = schema_of(medium)
        self._splits = {split: _SplitWriter(tree, split, schema) for split in SPLITS}

    def add(self, split: str, row: Row) -> None:
        self._splits[split].add(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._splits.values():
            if error is None:
                writer.finish()
            else:
                writer.abandon()


class _SplitWriter:
    def __init__(self, tree: Path, split: str, schema: pa.Schema) -> None:
        self.tree, self.split, self.schema = tree, split, schema
        self.content = schema.names[1]
        self.rows: list[Row] = []
        self.group_bytes = self.shard_bytes = self.shards = 0
        self.file: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.group_bytes += weight(row[self.content])
        if self.group_bytes >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self.write_group()
            if self.shard_bytes >= SHARD_BYTES:
                self.finish()

    def write_group(self) -> None:
        if self.file is None:
            path = self.tree / f"{self.split}-{self.shards:05d}.parquet"
            # encoded files are compressed already: dictionaries and statistics of them would only cost
            self.file = pq.ParquetWriter(
                path,
                self.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["label"],
                write_statistics=False,
            )
            self.shards += 1
        self.file.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.shard_bytes += self.group_bytes
        self.rows, self.group_bytes = [], 0

    def finish(self) -> None:
        if self.rows:
            self.write_group()
        if self.file is not None:
            self.file.close()
        self.file, self.shard_bytes = None, 0

    def abandon(self) -> None:
        """Closes the file after a failure, which on a full disk fails again; the first error is the one to report."""
        try:
            if self.file is not None:
                self.file.close()
        except OSError:
            pass
        self.file = None


def rows(tree: Path, split: str | None = None, columns: list[str] | None = None) -> Iterator[Row]:
    """The rows of a dataset's tree as dicts, streamed in the shards' order: one split, or train, validation and test.

    Raises PipelineError where the tree has no such shard.
    """
    for name in SPLITS if split is None else (split,):
        shards = sorted(tree.glob(f"{name}-*.parquet"))
        if not shards:
            raise PipelineError(f"{tree}: holds no {name} shards: build the dataset again")
        for shard in shards:
            with pq.ParquetFile(shard, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=64, columns=columns):
                    yield from batch.to_pylist()
