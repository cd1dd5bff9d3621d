"""images with captions -> pixels and tokens.

SPLIT.image.npy            uint8 [n, channels, side, side], as `image.py` writes them
SPLIT.tokens.npy           uint16 [n, captions, length]: [CLS] a caption's first tokens [SEP], then padding
SPLIT.count.npy            uint8 [n]: how many of these captions there are
SPLIT.captions.parquet     the captions themselves, a list of strings an image
tokenizer.json             of the training split's captions
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.shards import rows
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import chunks_of
from ssl_pipeline.pretext.packing import image as images
from ssl_pipeline.pretext.packing.tokens import pretrained_config, special_in, tokenizer_of

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_image_text import ImageTextEncoder

CHUNK = 1024
"""Images whose captions are tokenized at a time."""


def write(tree: Path, folder: Path, settings: ImageTextEncoder) -> dict[str, Any]:
    """Fills `folder`. Returns the facts of the images (channels, mean, std) and, under `text`, those of the captions
    (tokenizer as JSON, its special tokens, vocabulary). Memory is a chunk of images or captions.

    Raises PipelineError where the images do not fit on the disk decoded, or a tokenizer does not fit."""
    facts = images.write(tree, folder, settings.image)
    if (folder / "encoded.json").exists():
        raise PipelineError(
            f"{folder}: too little free disk for the decoded images: free some or set encoder.image.image_size lower"
        )
    tokenizer = tokenizer_of(settings.text, training_captions(tree, settings.captions))
    special = special_in(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    text: dict[str, Any] = {"vocabulary": tokenizer.get_vocab_size(), "special": special._asdict()}
    if isinstance(settings.text.pretrained, str):
        text["config"] = pretrained_config(settings.text.pretrained)
    about = json.loads((tree / "dataset.json").read_text())
    most, length = min(settings.captions, about["captions_an_image"]["max"]), settings.text.length
    captions = cut = 0
    for split in SPLITS:
        shape = (about["splits"][split], most, length)
        tokens = np.lib.format.open_memmap(folder / f"{split}.tokens.npy", "w+", np.uint16, shape)
        tokens[:] = special.pad
        real = np.lib.format.open_memmap(folder / f"{split}.count.npy", "w+", np.uint8, shape[:1])
        schema, at = pa.schema([("captions", pa.list_(pa.string()))]), 0
        with pq.ParquetWriter(folder / f"{split}.captions.parquet", schema, compression="zstd") as file:
            for chunk in chunks_of(rows(tree, split, ["captions"]), CHUNK):
                kept = [row["captions"][:most] for row in chunk]
                file.write_table(pa.table({"captions": kept}, schema))
                places = [(at + row, column) for row, texts in enumerate(kept) for column in range(len(texts))]
                flat = [caption for texts in kept for caption in texts]
                for place, encoding in zip(
                    places, tokenizer.encode_batch_fast(flat, add_special_tokens=False), strict=True
                ):
                    ids = encoding.ids[: length - 2]
                    tokens[place][: len(ids) + 2] = [special.cls, *ids, special.sep]
                    cut += len(encoding.ids) > len(ids)
                real[at : at + len(kept)] = [len(texts) for texts in kept]
                captions += len(flat)
                at += len(kept)
        tokens.flush()
        real.flush()
    return facts | {
        "text": text | {"tokenizer": tokenizer.to_str()},
        "captions": most,
        "cut": cut / captions,
    }


def packer(settings: ImageTextEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> its image, uint8 `[channels, side, side]`."""
    return images.packer(settings.image, facts)


def training_captions(tree: Path, most: int) -> Iterator[str]:
    for row in rows(tree, "train", ["captions"]):
        yield from row["captions"][:most]
