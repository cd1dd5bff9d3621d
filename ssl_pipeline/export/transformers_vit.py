"""A plain ViT of timm as a folder with transformers' ViTModel: the same network, and other names for its tensors.

Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words": a class token, which is what is pooled, and learned positions for it and
every patch. What came later (registers, scaled layers, norms in other places) has no place there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import Tensor
from transformers import ViTConfig

from ssl_pipeline.export.timm import Network, network_in

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

OUTSIDE = {
    "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
}  # fmt: skip
IN_BLOCKS = {
    "norm1": ["layernorm_before"],
    "attn.qkv": ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    "attn.proj": ["attention.output.dense"],
    "norm2": ["layernorm_after"],
    "mlp.fc1": ["intermediate.dense"],
    "mlp.fc2": ["output.dense"],
}  # fmt: skip


def plain_vit_in(found: Registered, format: str) -> Network:
    """Raises PipelineError for an encoder without one."""
    network = network_in(found, format)
    vit = network.module
    if not isinstance(vit, VisionTransformer):
        raise found.refuse(format, f"{network.name} is no ViT; choose timm, onnx or safetensors")
    has, plain = vit.state_dict().keys(), names_of(len(vit.blocks)).keys()
    if more := sorted(has - plain):
        differs = f"has {more[0]}"
    elif fewer := sorted(plain - has):
        differs = f"has no {fewer[0]}"
    elif vit.no_embed_class:
        differs = "has no position for its class token"
    elif vit.global_pool != "token":
        differs = f"is pooled by {vit.global_pool}"
    else:
        return network
    raise found.refuse(
        format, f"{network.name} {differs}; a plain ViT has a class token that is pooled, a position for it, and neither "
        "registers nor scaled layers; choose timm, onnx or safetensors",
    )  # fmt: skip


def names_of(depth: int) -> dict[str, list[str]]:
    """timm's name -> transformers'; several where a tensor is as many there, stacked."""
    names = {name: [there] for name, there in OUTSIDE.items()}
    for block in range(depth):
        for part, there in IN_BLOCKS.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{block}.{part}.{kind}"] = [f"encoder.layer.{block}.{name}.{kind}" for name in there]
    return names


def write(found: Registered, format: str, output: Path) -> None:
    network = plain_vit_in(found, format)
    vit = network.module
    height, width = network.size
    config = ViTConfig(
        hidden_size=vit.embed_dim, num_hidden_layers=len(vit.blocks), num_attention_heads=vit.blocks[0].attn.num_heads,
        intermediate_size=vit.blocks[0].mlp.fc1.out_features, layer_norm_eps=vit.norm.eps,
        image_size=height if height == width else [height, width], patch_size=vit.patch_embed.patch_size[0],
        num_channels=network.encoder.channels, architectures=["ViTModel"],
    )  # fmt: skip
    config.save_pretrained(output)
    names = names_of(len(vit.blocks))
    weights: dict[str, Tensor] = {}
    for name, value in vit.state_dict().items():
        parts = value.chunk(len(names[name]))
        weights |= {there: part.contiguous() for there, part in zip(names[name], parts, strict=True)}
    save_file(weights, output / "model.safetensors", {"format": "pt"})


def compare(found: Registered, code: str) -> Compared:
    network = plain_vit_in(found, "transformers")
    for batch in (1, 3):
        pictures = network.inputs(batch)
        opened: dict[str, Any] = {"pictures": pictures}
        # the code itself, since it is what a person copies
        exec(code, opened)
        yield from pairs(network, pictures, opened["hidden"], opened["embeddings"])


def pairs(network: Network, inputs: Tensor, hidden: Tensor, embeddings: Tensor) -> Compared:
    yield f"the hidden state of a batch of {len(inputs)}", network.encoder.tokens(inputs), hidden
    yield f"the embedding of a batch of {len(inputs)}", network.encoder(inputs), embeddings


def opens(found: Registered, path: str) -> str:
    network = plain_vit_in(found, "transformers")
    mean, std = network.statistics
    return f"""\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained({path!r}, add_pooling_layer=False)
mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in ({mean}, {std}))
hidden = model((pictures - mean) / std).last_hidden_state  # pictures: float32 in 0..1, [batch, {network.encoder.channels}, \
{network.size[0]}, {network.size[1]}]
embeddings = hidden[:, 0]
"""
