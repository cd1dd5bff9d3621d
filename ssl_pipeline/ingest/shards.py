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
from ssl_pipeline.part import PipelineError

SHARD_BYTES = 64 << 20
"""Image bytes after which a new shard begins."""
GROUP_BYTES, GROUP_ROWS = 4 << 20, 1024
"""Image bytes or rows after which a row group is written: what a reader has to hold in memory."""

FEATURES = {
    "sample_id": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "label": {"dtype": "string", "_type": "Value"},
    "group": {"dtype": "string", "_type": "Value"},
    "source": {"dtype": "string", "_type": "Value"},
    "height": {"dtype": "int32", "_type": "Value"},
    "width": {"dtype": "int32", "_type": "Value"},
}
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.string()),
        ("group", pa.string()),
        ("source", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
Row = dict[str, Any]


class Shards:
    """Writes rows into `<tree>/<split>-00000.parquet` and so on. The same rows make the same bytes."""

    def __init__(self, tree: Path) -> None:
        self._splits = {split: _SplitWriter(tree, split) for split in SPLITS}

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
    def __init__(self, tree: Path, split: str) -> None:
        self.tree, self.split = tree, split
        self.rows: list[Row] = []
        self.group_bytes = self.shard_bytes = self.shards = 0
        self.file: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.group_bytes += len(row["image"]["bytes"])
        if self.group_bytes >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self.write_group()
            if self.shard_bytes >= SHARD_BYTES:
                self.finish()

    def write_group(self) -> None:
        if self.file is None:
            path = self.tree / f"{self.split}-{self.shards:05d}.parquet"
            # image bytes are compressed already: dictionaries and statistics of them would only cost
            self.file = pq.ParquetWriter(
                path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=["label"], write_statistics=False
            )
            self.shards += 1
        self.file.write_table(pa.Table.from_pylist(self.rows, SCHEMA))
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
