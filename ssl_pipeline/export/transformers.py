"""A folder that AutoModel and AutoTokenizer open: an encoder of text, or the text beside an image without its projection; or that
AutoModel opens: the plain ViT of any other encoder (`transformers_vit.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ssl_pipeline.encoders.image_text import ImageTextEncoder
from ssl_pipeline.encoders.text import TextEncoder
from ssl_pipeline.export import transformers_vit

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", (), ""
TOLERANCE = 1e-4

POOL = {
    "cls": "embeddings = hidden[:, 0]",
    "mean": """weight = tokens["attention_mask"][..., None]
embeddings = (hidden * weight).sum(1) / weight.sum(1)""",
}


def text_in(found: Registered) -> TextEncoder | None:
    encoder = found.encoder.text_tower if isinstance(found.encoder, ImageTextEncoder) else found.encoder
    return encoder if isinstance(encoder, TextEncoder) else None


def write(found: Registered, output: Path, format: str = "transformers") -> None:
    if (encoder := text_in(found)) is None:
        return transformers_vit.write(found, format, output)
    encoder.save_extra(output.parent)
    (output.parent / "transformers").rename(output)


def compare(found: Registered, output: Path) -> Compared:
    if (encoder := text_in(found)) is None:
        yield from transformers_vit.compare(found, opens(found, str(output)))
        return
    for texts in texts_for(encoder):
        opened: dict[str, Any] = {"texts": texts}
        # the code itself, since it is what a person copies
        exec(opens(found, str(output)), opened)
        yield from pairs(encoder, texts, opened["tokens"]["input_ids"], opened["embeddings"])


def texts_for(encoder: TextEncoder) -> list[list[str]]:
    """Batches that the tokenizer writes itself: one text; and several of different lengths, of which some are cut."""
    batches = [encoder.show(encoder.example(batch, torch.Generator().manual_seed(batch))) for batch in (1, 4)]
    for texts in batches:
        texts[0] = " ".join([texts[0] or "a"] * (encoder.length if len(texts) > 1 else 1))
    return batches


def pairs(encoder: TextEncoder, texts: list[str], tokens: torch.Tensor, embeddings: torch.Tensor) -> Compared:
    ours = tokenized(encoder, texts)
    yield f"what the tokenizer makes of {len(texts)} texts", ours.float(), tokens.float()
    yield f"the embedding of {len(texts)} texts", encoder(ours), embeddings


def tokenized(encoder: TextEncoder, texts: list[str]) -> torch.Tensor:
    """`[batch, length]`, no longer than the longest text."""
    special = encoder.special
    rows = [
        torch.tensor([special["cls"], *encoding.ids[: encoder.length - 2], special["sep"]])
        for encoding in encoder.tokenizer.encode_batch(texts, add_special_tokens=False)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=special["pad"])


def opens(found: Registered, path: str) -> str:
    if (encoder := text_in(found)) is None:
        return transformers_vit.opens(found, path)
    return f"""\
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({path!r}), AutoModel.from_pretrained({path!r})
tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
{POOL[encoder.pooling]}
"""
