"""The tokenizer of a text encoder: trained on a corpus, or read from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_text import TextEncoder

LONGEST_WORD = 100
"""Characters; longer ones are no words, and training on a single one of megabytes would take hours."""


class Special(NamedTuple):
    """The numbers of the tokens that are no text."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


SPELLINGS = {
    "pad": ("[PAD]", "<pad>"), "unk": ("[UNK]", "<unk>"), "cls": ("[CLS]", "<s>"), "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}  # fmt: skip
NAMES = [spelled[0] for spelled in SPELLINGS.values()]


def train_tokenizer(texts: Iterator[str], vocabulary: int, lowercase: bool = True) -> Tokenizer:
    """Byte pair encoding (Sennrich 2016) down to single bytes, so that no text is unknown to it: at most `vocabulary` tokens,
    of which the special ones are the first five. Text is brought to normal form C, white space to single blanks; words of
    more than 100 characters are not learnt from. The same texts give the same tokenizer, which the library's WordPiece
    trainer does not keep."""
    tokenizer = Tokenizer(models.BPE())
    lower = [normalizers.Lowercase()] if lowercase else []
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *lower, blanks, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=NAMES, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    long = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
    tokenizer.train_from_iterator((long.sub(" ", text) for text in texts), trainer)
    return dressed(tokenizer)


def tokenizer_of(settings: TextEncoder, texts: Iterator[str]) -> Tokenizer:
    """Raises PipelineError where the named one cannot be read, lacks a special token or is too large."""
    path = (
        settings.pretrained
        if isinstance(settings.pretrained, str) and settings.tokenizer == "train"
        else settings.tokenizer
    )
    if path == "train":
        return train_tokenizer(texts, settings.vocabulary, settings.lowercase)
    tokenizer = read_tokenizer(Path(path).expanduser())
    if (size := tokenizer.get_vocab_size()) > 65_535:
        raise PipelineError(f"tokenizer {path}: has {size:,} tokens, and 65,535 are the most that is supported")
    return dressed(tokenizer)


def read_tokenizer(path: Path) -> Tokenizer:
    try:
        if not path.is_dir():
            return Tokenizer.from_file(str(path))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises nothing narrower
        why = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"tokenizer {path}: cannot be read ({why}); name a tokenizer.json or a transformers folder"
        ) from error


def special_in(tokenizer: Tokenizer) -> Special:
    """Raises PipelineError where there is one missing."""
    found: dict[str, int] = {}
    for name, spelled in SPELLINGS.items():
        ids = [i for token in spelled if (i := tokenizer.token_to_id(token)) is not None]
        if not ids:
            raise PipelineError(f"tokenizer: has no token {' or '.join(spelled)}: use one with it, or tokenizer: train")
        found[name] = ids[0]
    return Special(**found)


def dressed(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that says [CLS] before a text and [SEP] behind it, and cuts and pads nothing by itself."""
    special = special_in(tokenizer)
    cls, sep = (tokenizer.id_to_token(i) for i in (special.cls, special.sep))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(cls, special.cls), (sep, special.sep)],
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pretrained_config(folder: str) -> dict[str, Any]:
    """The transformers configuration in a folder. Raises PipelineError where it is none that this encoder can be."""
    from transformers import AutoConfig

    path = Path(folder).expanduser()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise PipelineError(f"encoder.pretrained {folder}: is no transformers folder ({why})") from error
    if config.model_type not in ("bert", "modernbert"):
        raise PipelineError(
            f"encoder.pretrained {folder}: holds a {config.model_type}, and bert and modernbert are supported"
        )
    return config.to_dict()
