"""images -> uint8 arrays: every image decoded once, its centre square at the encoder's size.

Where these arrays would take more than half of the free disk, the files are kept as they were encoded instead, and images
are decoded when they are asked for: the same pixels, for more work.

Of images with boxes, the files as they were encoded are kept as well, end to end in SPLIT.originals, and beside them
SPLIT.objects.parquet: `end` (of a file in there), `height`, `width`, `objects`. Of images with masks, these are resized as the
images are, to masks.SPLIT.npy: uint8 `[n, side, side]`, a class a pixel, 255 where nothing is said; masks.json has their names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.image_masks import class_ids, mask_square
from ssl_pipeline.ingest.image_objects import OBJECT
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.ingest.shards import SPLITS, rows
from ssl_pipeline.pretext.pack import chunks_of, write_index

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings import ImageEncoder

SHARE_OF_DISK = 0.5
"""Of the free disk: what decoded images may take."""


def write(tree: Path, folder: Path, settings: ImageEncoder) -> dict[str, Any]:
    """Fills `folder` with array `image` `[n, channels, side, side]`. Returns channels, and their mean and deviation in 0..1
    over the training split. Memory is one chunk of images however large the dataset."""
    about = json.loads((tree / "dataset.json").read_text())
    channels = about["channels"] if settings.channels == "auto" else settings.channels
    counts, side = about["splits"], settings.image_size
    pixels_of = packer(settings, {"channels": channels})

    def write_beside(folder: Path, split: str) -> AbstractContextManager[Put]:
        if "masks" in about:
            return write_masks(folder, split, about["masks"], (counts[split], side, side))
        return write_objects(folder, split) if "objects" in about else write_nothing(folder, split)

    moments = np.zeros((2, channels))
    size = sum(counts[split] for split in SPLITS) * channels * side**2
    encoded = size > shutil.disk_usage(folder).free * SHARE_OF_DISK
    if encoded:
        (folder / "encoded.json").write_text(json.dumps({"side": side, "channels": channels}))
    for split in SPLITS:
        save = write_encoded if encoded else write_pixels
        index, at = [], 0
        with (
            save(folder, split, (counts[split], channels, side, side)) as put,
            write_beside(folder, split) as put_beside,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for chunk in chunks_of(rows(tree, split), 64):
                pixels = np.stack(list(pool.map(pixels_of, chunk)))
                put(at, pixels, chunk)
                put_beside(at, pixels, chunk)
                at += len(chunk)
                if split == "train":
                    block = pixels.astype(np.float64) / 255
                    moments += block.mean((2, 3)).sum(0), np.square(block).mean((2, 3)).sum(0)
                index += chunk
                for row in chunk:
                    for content in ("image", "objects", "mask"):
                        row.pop(content, None)
        write_index(folder, split, index)
    mean, square = moments / counts["train"]
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return {"channels": channels, "mean": mean.round(6).tolist(), "std": std.round(6).tolist()}


def packer(settings: ImageEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> uint8 `[channels, side, side]`."""
    return lambda row: to_square(decode(row["image"]["bytes"]), settings.image_size, facts["channels"])


Put = Callable[[int, np.ndarray, list[dict[str, Any]]], None]


@contextmanager
def write_pixels(folder: Path, split: str, shape: tuple[int, ...]) -> Iterator[Put]:
    array = np.lib.format.open_memmap(folder / f"{split}.image.npy", "w+", np.uint8, shape)

    def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
        array[at : at + len(pixels)] = pixels

    yield put
    array.flush()


@contextmanager
def write_encoded(folder: Path, split: str, shape: tuple[int, ...]) -> Iterator[Put]:
    lengths: list[int] = []
    with open(folder / f"{split}.bytes", "wb") as file:

        def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
            lengths.extend(file.write(row["image"]["bytes"]) for row in chunk)

        yield put
    np.save(folder / f"{split}.ends.npy", np.cumsum(lengths, dtype=np.int64))


@contextmanager
def write_nothing(folder: Path, split: str) -> Iterator[Put]:
    yield lambda at, pixels, chunk: None


@contextmanager
def write_objects(folder: Path, split: str) -> Iterator[Put]:
    schema = pa.schema(
        [("end", pa.int64()), ("height", pa.int32()), ("width", pa.int32()), ("objects", pa.list_(OBJECT))]
    )
    with (
        open(folder / f"{split}.originals", "wb") as file,
        pq.ParquetWriter(folder / f"{split}.objects.parquet", schema, compression="zstd") as writer,
    ):

        def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
            ends = [file.write(row["image"]["bytes"]) and file.tell() for row in chunk]
            found = [{"end": end} | {c: row[c] for c in schema.names[1:]} for end, row in zip(ends, chunk, strict=True)]
            writer.write_table(pa.Table.from_pylist(found, schema))

        yield put


@contextmanager
def write_masks(folder: Path, split: str, about: dict[str, Any], shape: tuple[int, ...]) -> Iterator[Put]:
    (folder / "masks.json").write_text(json.dumps(about["classes"]))
    array = np.lib.format.open_memmap(folder / f"masks.{split}.npy", "w+", np.uint8, shape)

    def put(at: int, pixels: np.ndarray, chunk: list[dict[str, Any]]) -> None:
        for row, one in enumerate(chunk, at):
            ids = class_ids(one["mask"]["bytes"], len(about["classes"]), about["ignore"])
            array[row] = mask_square(ids, shape[1])

    yield put
    array.flush()
