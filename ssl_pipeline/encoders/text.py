"""Text: a transformer over the tokens of a document, and its pooling, in one module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
)

from ssl_pipeline.encoders.attention import NAME
from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_text import TextEncoder as Settings

BLANKS = ("\u0120", "\u010a", "\u0109", "\u2581")
"""How byte pairs spell a blank, a line break and a tab, and sentencepiece a blank."""
TRIM = 8
"""Padding is cut off in steps of so many tokens."""


class TextEncoder(Encoder):
    """tokens `[batch, length]`, padded -> embedding `[batch, dim]`"""

    takes = "tokens"
    extra_files = frozenset({"transformers"})
    opens: Tensor
    closes: Tensor
    is_special: Tensor

    def __init__(self, backbone: Any, pooling: str, tokenizer: Tokenizer, special: dict[str, int], length: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling, self.tokenizer, self.special, self.length = pooling, tokenizer, special, length
        self.dim = backbone.config.hidden_size
        self.vocabulary = backbone.config.vocab_size
        opens, closes = word_edges(tokenizer, self.vocabulary)
        self.register_buffer("opens", opens, persistent=False)
        self.register_buffer("closes", closes, persistent=False)
        is_special = torch.zeros(self.vocabulary, dtype=torch.bool)
        is_special[list(special.values())] = True
        self.register_buffer("is_special", is_special, persistent=False)

    def read(self, batch: Batch) -> Tensor:
        """16-bit tokens as indices."""
        return self.trim(batch["tokens"].long())

    def trim(self, tokens: Tensor) -> Tensor:
        """On a CPU without the columns that are padding in all documents, which change nothing but the time. On a GPU
        looking for them would wait for it."""
        if tokens.device.type != "cpu" or torch.compiler.is_compiling():
            return tokens
        longest = int((tokens != self.special["pad"]).any(0).sum())
        return tokens[:, : max(1, -(-longest // TRIM)) * TRIM]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.pool(self.hidden(tokens), self.real(tokens))

    def tokens(self, inputs: Tensor) -> Tensor:
        return self.hidden(inputs) * self.real(inputs)[..., None]

    def hidden(self, tokens: Tensor, padded: bool = True) -> Tensor:
        """`[batch, length]` -> `[batch, length, dim]`. Blocks have no padding, and attention is quicker where it knows."""
        mask: Any = self.real(tokens)[:, None, None, :] if padded else None  # [batch, 1, 1, length]
        if isinstance(self.backbone, ModernBertModel):
            place = torch.arange(tokens.shape[1], device=tokens.device)
            near = (place[:, None] - place).abs() <= self.backbone.config.sliding_window  # [length, length]
            mask = {"full_attention": mask, "sliding_attention": near if mask is None else near & mask}
        return self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state

    def real(self, tokens: Tensor) -> Tensor:
        """`[batch, length]`, where there is no padding; the first place counts always, so that nothing is divided by 0."""
        return (tokens != self.special["pad"]) | (torch.arange(tokens.shape[1], device=tokens.device) == 0)

    def pool(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """`[batch, length, dim]` -> `[batch, dim]`"""
        if self.pooling == "cls":
            return hidden[:, 0]
        if real is None:
            return hidden.mean(1)
        weight = real.to(hidden.dtype)[..., None]
        return (hidden * weight).sum(1) / weight.sum(1)

    def continues(self, tokens: Tensor) -> Tensor:
        """`[batch, length]`, where a token goes on with the word of the token before it."""
        before = torch.cat([torch.zeros_like(tokens[:, :1], dtype=torch.bool), self.closes[tokens[:, :-1]]], dim=1)
        return self.opens[tokens] & before

    @property
    def embeddings(self) -> Tensor:
        """Of the tokens, `[vocabulary, dim]`."""
        return self.backbone.get_input_embeddings().weight

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        """Random tokens in documents of random length."""
        tokens = torch.randint(
            max(self.special.values()) + 1, self.vocabulary, (count, self.length), generator=generator
        )
        last = torch.randint(2, self.length, (count, 1), generator=generator)
        place = torch.arange(self.length)
        tokens = tokens.where(place < last, self.special["pad"]).where(place != last, self.special["sep"])
        tokens[:, 0] = self.special["cls"]
        return {"tokens": tokens.to(torch.uint16)}

    def show(self, batch: Batch) -> list[str]:
        return [
            text.strip() for text in self.tokenizer.decode_batch(batch["tokens"].tolist(), skip_special_tokens=True)
        ]

    def tell(self, tokens: Tensor) -> list[str]:
        """Texts of `[batch, length]` in which [SEP] and [MASK] are seen."""
        unsaid = {self.special["pad"], self.special["cls"]}
        rows = [[token for token in row if token not in unsaid] for row in tokens.tolist()]
        return [text.strip() for text in self.tokenizer.decode_batch(rows, skip_special_tokens=False)]

    def blocks(self) -> list[nn.Module]:
        return list(self.backbone.layers if isinstance(self.backbone, ModernBertModel) else self.backbone.encoder.layer)

    def save_extra(self, folder: Path) -> None:
        """Writes `transformers/`, which AutoModel and AutoTokenizer open."""
        self.backbone.save_pretrained(folder / "transformers")
        names = {f"{name}_token": self.tokenizer.id_to_token(number) for name, number in self.special.items()}
        whole = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, model_max_length=self.length, **names)
        whole.save_pretrained(folder / "transformers")


def build(settings: Settings, facts: dict[str, Any]) -> TextEncoder:
    """`facts`: `vocabulary`, `special`, `tokenizer` and, of a pretrained model, `config`.

    Raises PipelineError where pretrained weights are missing, do not fit or see fewer tokens than the encoder's length.
    """
    config = config_of(settings, facts)
    if isinstance(settings.pretrained, str):
        backbone = read_pretrained(Path(settings.pretrained).expanduser(), config)
    else:
        bert = isinstance(config, BertConfig)
        backbone = BertModel(config, add_pooling_layer=False) if bert else ModernBertModel(config)
    backbone.config._attn_implementation = NAME
    tokenizer = Tokenizer.from_str(facts["tokenizer"])
    return TextEncoder(backbone, settings.pooling, tokenizer, facts["special"], settings.length)


def config_of(settings: Settings, facts: dict[str, Any]) -> Any:
    """No dropout on attention: the fused form of it on a CPU has none."""
    special = {f"{name}_token_id": facts["special"][name] for name in ("pad", "cls", "sep")}
    dropout: dict[str, Any] = {"hidden_dropout_prob": settings.dropout, "attention_probs_dropout_prob": 0.0}
    if (facts["config"]["model_type"] if "config" in facts else settings.architecture) == "modernbert":
        dropout = {"embedding_dropout": settings.dropout, "mlp_dropout": settings.dropout, "attention_dropout": 0.0}
    if "config" in facts:
        config = AutoConfig.for_model(**facts["config"] | dropout)
        if config.max_position_embeddings < settings.length:
            raise PipelineError(
                f"encoder.length {settings.length} is above the {config.max_position_embeddings} tokens that the "
                f"pretrained model sees: lower it to that"
            )
        return config
    sizes = {
        "vocab_size": facts["vocabulary"], "hidden_size": settings.width, "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads, "max_position_embeddings": settings.length,
    }  # fmt: skip
    if settings.architecture == "bert":
        return BertConfig(**sizes, **special, **dropout, intermediate_size=4 * settings.width)
    ends = {"bos_token_id": facts["special"]["cls"], "eos_token_id": facts["special"]["sep"]}
    return ModernBertConfig(**sizes, **special, **ends, **dropout, intermediate_size=3 * settings.width // 2)


def read_pretrained(folder: Path, config: Any) -> Any:
    """Never unpickles."""
    options = {"add_pooling_layer": False} if isinstance(config, BertConfig) else {}
    try:
        backbone, report = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"encoder.pretrained {folder}: holds no safetensors weights of this model ({why}); pickles are not opened"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise PipelineError(
            f"encoder.pretrained {folder}: {len(missing)} tensors are missing, the first {missing[0]!r}; is it another model?"
        )
    return backbone


def word_edges(tokenizer: Tokenizer, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Two bools a token: whether it may go on with a word, and whether a word may go on after it.

    WordPiece marks the former with ##; in byte pairs a letter, a digit or a byte of one that no blank precedes goes on
    with another.
    """
    pieces = [tokenizer.id_to_token(number) or "" for number in range(vocabulary)]
    marked = any(piece.startswith("##") for piece in pieces)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def letter(character: str) -> bool:
        return character not in BLANKS and (character.isalnum() or character > "\x7f")

    def edges(number: int, piece: str) -> tuple[bool, bool]:
        if number in special:
            return False, False
        if marked:
            return len(piece) > 2 and piece.startswith("##"), True
        return letter(piece[:1]), letter(piece[-1:]) or piece in BLANKS

    found = torch.tensor([edges(number, piece) for number, piece in enumerate(pieces)])
    return found[:, 0].contiguous(), found[:, 1].contiguous()
