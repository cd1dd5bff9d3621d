"""documents -> tokens: a tokenizer of the training split, documents cut at the encoder's length, and blocks to train on.

SPLIT.tokens.npy            uint16 [n, length]: [CLS] the document's first tokens [SEP], then padding
SPLIT.training.tokens.npy   uint16 [blocks, length]: [CLS], then documents end to end, a [SEP] after each; no padding
SPLIT.text.parquet          the texts themselves, and `target`, the other side of a pair or null
tokenizer.json
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.shards import rows
from ssl_pipeline.pretext.pack import write_index
from ssl_pipeline.pretext.packing.tokens import Special, pretrained_config, special_in, tokenizer_of

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_text import TextEncoder

CHUNK_CHARACTERS = 1 << 20
"""Of documents that are tokenized at a time."""
SEED = 0
"""Of the documents' order in the blocks."""
SIDES = pa.schema([("text", pa.string()), ("target", pa.string())])


def write(tree: Path, folder: Path, settings: TextEncoder) -> dict[str, Any]:
    """Fills `folder`. Returns the tokenizer as JSON, its special tokens, and what was counted. In memory are a chunk of
    documents, and 8 bytes a document. Raises PipelineError where a tokenizer cannot be read or does not fit."""
    tokenizer = tokenizer_of(settings, (row["text"] for row in rows(tree, "train", ["text"])))
    special = special_in(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts: dict[str, Any] = {"vocabulary": tokenizer.get_vocab_size(), "special": special._asdict()}
    for split in SPLITS:
        counted = write_split(tree, folder, split, tokenizer, special, settings.length)
        facts |= {name: facts.get(name, {}) | {split: value} for name, value in counted.items()}
    if isinstance(settings.pretrained, str):
        facts["config"] = pretrained_config(settings.pretrained)
    return facts | {"tokenizer": tokenizer.to_str()}


def packer(settings: TextEncoder, facts: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """A row of a shard -> uint16 `[length]`."""
    tokenizer, special = Tokenizer.from_str(facts["tokenizer"]), Special(**facts["special"])

    def pack(row: dict[str, Any]) -> np.ndarray:
        return sample(tokenizer.encode(row["text"], add_special_tokens=False).ids, special, settings.length)

    return pack


def sample(ids: Sequence[int] | np.ndarray, special: Special, length: int) -> np.ndarray:
    """A document's tokens -> uint16 `[length]`: [CLS], the first ones, [SEP], padding."""
    row = np.full(length, special.pad, np.uint16)
    seen = ids[: length - 2]
    row[0], row[1 : 1 + len(seen)], row[1 + len(seen)] = special.cls, seen, special.sep
    return row


def write_split(
    tree: Path, folder: Path, split: str, tokenizer: Tokenizer, special: Special, length: int
) -> dict[str, float]:
    count = sum(pq.read_metadata(shard).num_rows for shard in sorted(tree.glob(f"{split}-*.parquet")))
    samples = np.lib.format.open_memmap(folder / f"{split}.tokens.npy", "w+", np.uint16, (count, length))
    ends, unigrams, index, cut = np.zeros(count, np.int64), np.zeros(tokenizer.get_vocab_size(), np.int64), [], 0
    stream, at, total = folder / f"{split}.stream", 0, 0
    texts = pq.ParquetWriter(folder / f"{split}.text.parquet", SIDES, compression="zstd")
    with open(stream, "wb") as file, texts:
        for chunk in chunks_of_text(rows(tree, split)):
            texts.write_table(pa.table({side: [row[side] for row in chunk] for side in SIDES.names}, SIDES))
            for encoding in tokenizer.encode_batch_fast([row["text"] for row in chunk], add_special_tokens=False):
                ids = np.array(encoding.ids, np.uint16)
                samples[at] = sample(ids, special, length)
                np.append(ids, np.uint16(special.sep)).tofile(file)
                unigrams += np.bincount(ids, minlength=len(unigrams))
                cut += len(ids) > length - 2
                total += len(ids) + 1
                ends[at] = total
                at += 1
            index += [{name: value for name, value in row.items() if name not in SIDES.names} for row in chunk]
    samples.flush()
    write_index(folder, split, index)
    blocks = write_blocks(folder / f"{split}.training.tokens.npy", stream, ends, special.cls, length)
    os.remove(stream)
    tokens = max(1, int(unigrams.sum()))
    shares = unigrams[unigrams > 0] / tokens
    return {
        "documents": count, "tokens": tokens, "blocks": blocks, "mean_tokens": round(tokens / count, 2),
        "cut": cut / count, "unknown": float(unigrams[special.unk]) / tokens,
        "unigram_loss": float(-(shares * np.log(shares)).sum()),
    }  # fmt: skip


def write_blocks(path: Path, stream: Path, ends: np.ndarray, cls: int, length: int) -> int:
    """Cuts the documents of a stream of tokens, which end at `ends`, into blocks, in an order drawn once. The last block is
    filled up from the beginning."""
    tokens, body = np.memmap(stream, np.uint16, "r"), length - 1
    count = -(-len(tokens) // body)
    blocks = np.lib.format.open_memmap(path, "w+", np.uint16, (count, length))
    blocks[:, 0] = cls
    order = np.random.default_rng(SEED).permutation(len(ends))
    written = 0
    while written < count * body:
        for document in order:
            piece = tokens[ends[document - 1] if document else 0 : ends[document]]
            while len(piece) and written < count * body:
                row, column = divmod(written, body)
                part = piece[: body - column]
                blocks[row, 1 + column : 1 + column + len(part)] = part
                piece, written = piece[len(part) :], written + len(part)
    blocks.flush()
    return count


def chunks_of_text(found: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    characters = 0
    for row in found:
        chunk.append(row)
        characters += len(row["text"])
        if characters >= CHUNK_CHARACTERS or len(chunk) >= 1024:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
