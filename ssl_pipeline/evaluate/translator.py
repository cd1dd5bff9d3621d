"""A small decoder that reads a text encoder and writes its text in another language; and the training of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ssl_pipeline.evaluate.settings_translation import Translation
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.pack import Stored
from ssl_pipeline.pretext.packing.tokens import special_in, train_tokenizer
from ssl_pipeline.pretrain.compute import mixed_precision, seed_device
from ssl_pipeline.pretrain.loop import schedule

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Pretrain

POINTS = 10
"""Of a learning curve."""
SMOOTHING = 0.1
"""Of the labels in training (Vaswani et al. 2017, section 5.4)."""
BATCH = 64
"""Pairs that are validated on, and sentences that are translated, at a time."""

Curve = dict[int, float]
"""Validation loss in nats a token, by step."""


class Translator(nn.Module):
    """Tokens `[batch, length]` of an encoder and targets `[batch, m]` -> loss. The decoder is a GPT-2 with cross-attention."""

    def __init__(self, encoder: Any, tokenizer: Tokenizer, settings: Translation) -> None:
        super().__init__()
        special = special_in(tokenizer)
        self.tokenizer, self.pad, self.start = tokenizer, special.pad, special.cls
        options: dict[str, Any] = {
            "vocab_size": tokenizer.get_vocab_size(), "n_positions": settings.longest, "n_embd": settings.width,
            "n_layer": settings.layers, "n_head": settings.heads, "add_cross_attention": True,
            "resid_pdrop": settings.dropout, "embd_pdrop": settings.dropout, "attn_pdrop": settings.dropout,
            "bos_token_id": special.cls, "eos_token_id": special.sep, "pad_token_id": special.pad,
            "attn_implementation": "eager",  # two products: on a CPU quicker than the fused form
        }  # fmt: skip
        self.encoder = encoder
        self.bridge = nn.Identity() if encoder.dim == settings.width else nn.Linear(encoder.dim, settings.width)
        self.decoder: Any = GPT2LMHeadModel(GPT2Config(**options))

    def encoded(self, tokens: Tensor) -> dict[str, Tensor]:
        """What cross-attention reads: `[batch, length, width]`, and where that is no padding."""
        tokens = self.encoder.read({"tokens": tokens})
        hidden = self.bridge(self.encoder.hidden(tokens))
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": self.encoder.real(tokens)}

    def forward(self, tokens: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats of each token of the targets after those before it."""
        given, asked = targets[:, :-1], targets[:, 1:]
        out = self.decoder(given, attention_mask=given != self.pad, use_cache=False, **self.encoded(tokens))
        return F.cross_entropy(
            out.logits.float().flatten(0, 1), asked.flatten(), ignore_index=self.pad, label_smoothing=smoothing
        )

    def targets(self, texts: list[str]) -> Tensor:
        """`[batch, m]`: [CLS], a text's first tokens, [SEP], then padding to the longest of them."""
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(texts)])

    @torch.inference_mode()
    def translate(self, tokens: Tensor, beams: int) -> list[str]:
        """Of each of `[batch, length]` the best translation that beam search finds, by log-probability a token. In full precision:
        that of bf16 leaves ties."""
        self.eval()
        start = torch.full((len(tokens), 1), self.start, device=tokens.device)
        found = self.decoder.generate(
            start, attention_mask=torch.ones_like(start), max_length=self.decoder.config.n_positions, num_beams=beams,
            do_sample=False, **self.encoded(tokens),
        )  # fmt: skip
        return [text.strip() for text in self.tokenizer.decode_batch(found.tolist(), skip_special_tokens=True)]


def target_tokenizer(texts: Iterator[str], settings: Translation) -> Tokenizer:
    """Cased byte pairs of these texts, which cut and pad what they are given."""
    tokenizer = train_tokenizer(texts, settings.vocabulary, lowercase=False)
    pad = special_in(tokenizer).pad
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    tokenizer.enable_truncation(settings.longest)
    return tokenizer


def tokens_of(stored: Stored, pairs: pd.DataFrame) -> Tensor:
    """The encoder's tokens of pairs, `[n, length]`."""
    return torch.from_numpy(np.asarray(stored[pairs.index.to_numpy()]).astype(np.int64))


def train(
    model: Translator, stored: dict[str, Stored], pairs: dict[str, pd.DataFrame], settings: Translation, pretrain: Pretrain,
    seed: int,
) -> Curve:  # fmt: skip
    """AdamW on shuffled pairs, encoder and decoder together; on the way the loss on the validation pairs. `stored` and `pairs` are
    by split: the encoder's tokens, and columns `text` and `target` indexed by their rows."""
    device = model.encoder.device
    autocast = mixed_precision(pretrain, device)
    optimizer = create_optimizer_v2(model, "adamw", lr=settings.learning_rate, weight_decay=0.01)
    every, curve = max(1, settings.steps // POINTS), {}

    def loss_of(split: str, part: pd.DataFrame, smoothing: float = 0.0) -> Tensor:
        tokens, targets = tokens_of(stored[split], part), model.targets(part["target"].tolist())
        with autocast():
            return model(tokens.to(device), targets.to(device), smoothing)

    for step, part in enumerate(batches(pairs["train"], settings, seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step - 1, settings.steps // 10, settings.steps)
        seed_device(device, seed * 1_000_003 + step)
        model.train()
        loss_of("train", part, SMOOTHING).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % every == 0 or step == settings.steps:
            model.eval()
            held = pairs["validation"]
            parts = [held.iloc[at : at + BATCH] for at in range(0, len(held), BATCH)]
            with torch.inference_mode():
                losses = [float(loss_of("validation", part)) for part in parts]
            curve[step] = float(np.average(losses, weights=[len(part) for part in parts]))
    return curve


def batches(pairs: pd.DataFrame, settings: Translation, seed: int) -> Iterator[pd.DataFrame]:
    """One a step; no pair comes again before the others came."""
    size = min(settings.batch_size, len(pairs))
    order = np.empty(0, int)
    for step in range(settings.steps):
        epoch, at = divmod(step, len(pairs) // size)
        if not at:
            order = torch.randperm(len(pairs), generator=generator(seed, "translation", epoch)).numpy()
        yield pairs.iloc[order[at * size : (at + 1) * size]]
