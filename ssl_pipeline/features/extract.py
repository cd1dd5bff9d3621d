"""Embeddings of every split as Parquet, computed in fp32: they are what the registered model must answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.features.quality import label_free_quality
from ssl_pipeline.pretext.pack import SPLITS, Images, Pack


def embed(encoder: Encoder, images: Images, batch_size: int = 256) -> np.ndarray:
    """uint8 `[n, channels, side, side]` -> float32 `[n, dim]`, on the device that the encoder is on."""
    device = next(encoder.parameters()).device
    encoder = encoder.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    out = np.empty((len(images), encoder.dim), np.float32)
    with torch.inference_mode():
        for at in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[at : at + batch_size])).to(device).float() / 255
            out[at : at + len(batch)] = encoder(batch.contiguous(memory_format=torch.channels_last)).float().cpu()
    return out


def write(encoder: Encoder, pack: Pack, folder: Path) -> dict[str, Any]:
    """Writes `features.parquet`: sample_id, split, label, embedding (fixed-size list of float32). Returns the summary."""
    schema = pa.schema(
        [
            ("sample_id", pa.string()),
            ("split", pa.string()),
            ("label", pa.string()),
            ("embedding", pa.list_(pa.float32(), encoder.dim)),
        ]
    )
    samples, step = 0, 4096
    with pq.ParquetWriter(folder / "features.parquet", schema, compression="zstd") as writer:
        for split in SPLITS:
            images, index = pack.images(split), pack.index(split)
            for at in range(0, len(images), step):
                embedding = embed(encoder, images[at : at + step])
                rows = index.iloc[at : at + step]
                columns = [
                    pa.array(rows["sample_id"], pa.string()),
                    pa.array([split] * len(rows)),
                    pa.array(rows["label"], pa.string(), from_pandas=True),
                    pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), encoder.dim),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                samples += len(rows)
    return {"dim": encoder.dim, "samples": samples, **label_free_quality(encoder, pack)}


def read(path: Path, split: str) -> np.ndarray:
    """float32 `[n, dim]` of one split, in the pack's order."""
    table = pq.read_table(path / "features.parquet", columns=["embedding"], filters=[("split", "=", split)])
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def neighbours(
    path: Path, pack: Pack, queries: int = 8, k: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Random test images `[queries, channels, side, side]`, their nearest training images by cosine, nearest first
    `[queries, k, ...]`, and whether each is of the query's class, where all of these have one."""
    index = {split: pack.index(split)["label"].to_numpy(dtype=object) for split in ("train", "test")}
    chosen = np.sort(np.random.default_rng(0).permutation(len(index["test"]))[:queries])
    test, train = (torch.nn.functional.normalize(torch.tensor(read(path, s)), dim=1) for s in ("test", "train"))
    nearest = (test[chosen] @ train.T).topk(min(k, len(train)), dim=1).indices.numpy()
    images = pack.images("train")
    found = np.stack([images[row] for row in nearest])
    own, theirs = index["test"][chosen][:, None], index["train"][nearest]
    labelled = not (pd.isna(own).any() or pd.isna(theirs).any())
    return pack.images("test")[chosen], found, (own == theirs) if labelled else None
