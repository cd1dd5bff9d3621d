"""A folder that KerasHub opens: the one of `transformers`, of a BERT or a plain ViT, with what KerasHub's readers of it ask for
beside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from ssl_pipeline.encoders.text import TextEncoder
from ssl_pipeline.export import transformers, transformers_vit
from ssl_pipeline.export.tensorflow import answered

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", ("keras_hub", "tensorflow"), "tensorflow"
TOLERANCE = 1e-4

POOL = {
    "cls": "embeddings = hidden[:, 0]",
    "mean": """weight = mask[..., None].astype("float32")
embeddings = keras.ops.sum(hidden * weight, 1) / weight.sum(1)""",
}


def write(found: Registered, output: Path) -> None:
    encoder = transformers.text_in(found)
    if encoder and not isinstance(encoder.backbone, BertModel):
        raise found.refuse(
            "keras_hub", "KerasHub reads BERT, and this is a ModernBERT; choose transformers, tensorflow or onnx"
        )
    transformers.write(found, output, "keras_hub")
    weights = load_file(output / "model.safetensors")
    if encoder:  # a pooler is asked for: of zeros, since there is none
        width = encoder.dim
        weights |= {"pooler.dense.weight": torch.zeros(width, width), "pooler.dense.bias": torch.zeros(width)}
    else:  # a classifier's names are asked for
        weights = {f"vit.{name}": value for name, value in weights.items()}
    save_file(weights, output / "model.safetensors", {"format": "pt"})


def compare(found: Registered, output: Path) -> Compared:
    code = opens(found, str(output))
    if encoder := transformers.text_in(found):
        batches = transformers.texts_for(encoder)
        answers = answered(found, "keras_hub", code, "texts", batches, ["ids", "embeddings"])
        for texts, there in zip(batches, answers, strict=True):
            yield from transformers.pairs(encoder, texts, *there)
        return
    network = transformers_vit.plain_vit_in(found, "keras_hub")
    pictures = [network.inputs(batch) for batch in (1, 3)]
    given = [batch.permute(0, 2, 3, 1).numpy() for batch in pictures]
    answers = answered(found, "keras_hub", code, "pictures", given, ["hidden", "embeddings"])
    for batch, there in zip(pictures, answers, strict=True):
        yield from transformers_vit.pairs(network, batch, *there)


def opens(found: Registered, path: str) -> str:
    if encoder := transformers.text_in(found):
        return opens_text(encoder, path)
    network = transformers_vit.plain_vit_in(found, "keras_hub")
    mean, std = network.statistics
    shape = (*network.size, network.encoder.channels)
    return f"""\
import keras_hub
import numpy

model = keras_hub.models.ViTBackbone.from_preset({path!r}, image_shape={shape})
mean, std = numpy.array([{mean}, {std}], "float32")
hidden = model((pictures - mean) / std)  # pictures: float32 in 0..1, [batch, {", ".join(map(str, shape))}]
embeddings = hidden[:, 0]
"""


def opens_text(encoder: TextEncoder, path: str) -> str:
    """With the GELU itself: KerasHub has an approximation of it, by which the numbers differ by some 4e-4 of the largest."""
    pad = encoder.special["pad"]
    return f"""\
import keras
import keras_hub
import numpy
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file({path + "/tokenizer.json"!r})
tokenizer.enable_truncation({encoder.length})
tokenizer.enable_padding(pad_id={pad}, pad_token={encoder.tokenizer.id_to_token(pad)!r})
model = keras_hub.models.BertBackbone.from_preset({path!r})
for layer in model.transformer_layers:  # KerasHub approximates the GELU
    layer._feedforward_intermediate_dense.activation = keras.activations.gelu
tokens = tokenizer.encode_batch(texts)
ids = numpy.array([text.ids for text in tokens])
mask = numpy.array([text.attention_mask for text in tokens])
hidden = model({{"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": mask}})["sequence_output"]
{POOL[encoder.pooling]}
"""
