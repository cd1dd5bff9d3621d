"""A folder that AutoModel and AutoTokenizer open: an encoder of text, or the text beside an image without its projection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ssl_pipeline.encoders.image_text import ImageTextEncoder
from ssl_pipeline.encoders.text import TextEncoder

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", (), ""
TOLERANCE = 1e-4

POOL = {
    "cls": "embeddings = hidden[:, 0]",
    "mean": """weight = tokens["attention_mask"][..., None]
embeddings = (hidden * weight).sum(1) / weight.sum(1)""",
}


def text_in(found: Registered) -> TextEncoder:
    """Raises PipelineError for an encoder without a model of transformers."""
    encoder = found.encoder.text_tower if isinstance(found.encoder, ImageTextEncoder) else found.encoder
    if not isinstance(encoder, TextEncoder):
        raise found.refuse(
            "transformers", f"an encoder of {found.settings.kind} reads no text; choose onnx or safetensors"
        )
    return encoder


def write(found: Registered, output: Path) -> None:
    text_in(found).save_extra(output.parent)
    (output.parent / "transformers").rename(output)


def compare(found: Registered, output: Path) -> Compared:
    """Of texts that the tokenizer writes itself: one, several of different lengths, and some that are cut."""
    encoder = text_in(found)
    for batch in (1, 4):
        texts = encoder.show(encoder.example(batch, torch.Generator().manual_seed(batch)))
        texts[0] = " ".join([texts[0] or "a"] * (encoder.length if batch > 1 else 1))
        opened: dict[str, Any] = {"texts": texts}
        # the code itself, since it is what a person copies
        exec(opens(found, str(output)), opened)
        ours = tokenized(encoder, texts)
        yield f"what the tokenizer makes of {batch} texts", ours.float(), opened["tokens"]["input_ids"].float()
        yield f"the embedding of {batch} texts", encoder(ours), opened["embeddings"]


def tokenized(encoder: TextEncoder, texts: list[str]) -> torch.Tensor:
    """`[batch, length]`, no longer than the longest text."""
    special = encoder.special
    rows = [
        torch.tensor([special["cls"], *encoding.ids[: encoder.length - 2], special["sep"]])
        for encoding in encoder.tokenizer.encode_batch(texts, add_special_tokens=False)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=special["pad"])


def opens(found: Registered, path: str) -> str:
    return f"""\
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({path!r}), AutoModel.from_pretrained({path!r})
tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
{POOL[text_in(found).pooling]}
"""
