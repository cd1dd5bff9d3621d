"""Translation: what is a pretrained encoder worth to a decoder that has to write the text in another language?

Rothe, Narayan & Severyn 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks": an encoder that starts from a
checkpoint and a decoder that starts at random, joined by cross-attention and trained together (their BERT2RND), beside the same
two with a random encoder (RND2RND); what pretraining gains there, it gains in the encoder. Both sides get the same pairs in the
same order, the same decoder, learning rate and steps. No score chooses anything: the last step's weights translate the test
split, by beam search. Test pairs of which the training split has either side are left out.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacreBLEU's (Post 2018), of whole texts, as shares of 1.

Beside them stand the source itself, unchanged, and a translation memory: the target of the training source that is most similar
by TF-IDF. The field's classic, phrase-based translation (Koehn et al. 2003), is not there: it needs a word aligner, a language
model and a decoder in C++ that no maintained package carries.
"""

from __future__ import annotations

import copy
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sacrebleu.metrics import BLEU, CHRF
from tokenizers import Tokenizer

from ssl_pipeline.evaluate.classic_text import tfidf_features
from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Cell, Metrics, Result, t_half
from ssl_pipeline.evaluate.settings_translation import Translation
from ssl_pipeline.evaluate.translator import BATCH, Curve, Translator, target_tokenizer, tokens_of, train
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.compute import pick_device

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

VALIDATION_PAIRS = 512
"""That the learning curve's losses are means of, at most."""
SHOWN = 8
"""Translations on the sheet."""
LOSS = "translation/validation/loss/"
"""Before the step: no share, and in no table."""


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Translation
) -> Result:
    """The pretrained encoder, trained on with a fresh decoder under every seed."""
    pairs = pairs_of(recipe, pack, settings)
    runs = [run(recipe, pack, pairs, copy.deepcopy(encoder), settings, seed) for seed in range(settings.seeds)]
    metrics, signatures = summarize(runs, pairs, settings)
    test = pairs.splits["test"]
    rows = np.linspace(0, len(test) - 1, min(SHOWN, len(test))).astype(int)
    sheet = [[test["text"].iloc[row], test["target"].iloc[row], runs[0].translations[row]] for row in rows]
    return Result(
        metrics,
        {"samples": ("sheet", sheet, ("source", "reference", "translation"))},
        facts={"test_samples": len(test), "seen_in_training": pairs.seen, "signatures": signatures},
    )


def baselines(recipe: Recipe, pack: Pack, settings: Translation, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    pairs = pairs_of(recipe, pack, settings)
    known, test = pairs.splits["train"], pairs.splits["test"]
    step("copied source, translation memory")
    words = tfidf_features({"train": known["text"].tolist(), "test": test["text"].tolist()})
    nearest = [int((row @ words["train"].T).toarray().argmax()) for row in words["test"]]
    said = {"copied source": test["text"].tolist(), "translation memory": known["target"].iloc[nearest].tolist()}
    found = {name: summarize([Run(texts)], pairs, settings)[0] for name, texts in said.items()}
    runs = []
    for seed in range(settings.seeds):
        step(f"random encoder, seed {seed + 1} of {settings.seeds}")
        runs.append(run(recipe, pack, pairs, fresh_encoder(recipe, pack, seed), settings, seed))
    return {"random encoder": summarize(runs, pairs, settings)[0]} | found


def compared(methods: dict[str, Metrics]) -> dict[str, tuple[Any, ...]]:
    """The picture of all methods' learning curves: `(step, mean, low, high)` by method."""
    curves = {
        method: [
            (int(name.removeprefix(LOSS)), cell["mean"], cell["low"], cell["high"])
            for name, cell in metrics.items()
            if name.startswith(LOSS)
        ]
        for method, metrics in methods.items()
    }
    return {"learning_curves": ("learning", {method: curve for method, curve in curves.items() if curve})}


@dataclass(frozen=True)
class Pairs:
    """The texts that have another side."""

    splits: dict[str, pd.DataFrame]
    """Columns `text` and `target`, indexed by the row among the pack's samples."""
    tokenizer: Tokenizer
    """Of the training split's targets."""
    seen: int
    """Pairs of the test split that were left out because of the training split."""


def pairs_of(recipe: Recipe, pack: Pack, settings: Translation) -> Pairs:
    """Raises PipelineError where a split has none."""
    found = {split: pd.read_parquet(pack.path / f"{split}.text.parquet").dropna() for split in SPLITS}
    for pairs in found.values():
        pairs["target"] = [unicodedata.normalize("NFC", text) for text in pairs["target"]]
    known, test = found["train"], found["test"]
    new = test[~(test["text"].isin(known["text"]) | test["target"].isin(known["target"]))]
    for split, pairs, most in (
        ("test", new, settings.test_sentences),
        ("validation", found["validation"], VALIDATION_PAIRS),
    ):
        found[split] = pairs.sample(min(len(pairs), most), random_state=0)
    if missing := [split for split, pairs in found.items() if pairs.empty]:
        raise PipelineError(
            f"dataset {recipe.dataset!r}: no text of the {missing[0]} split has another side (that training has not seen); "
            "translation needs pairs: name their column in the source's target or their file in its parallel, or leave "
            "translation out of the recipe's evaluations"
        )
    return Pairs(found, target_tokenizer(iter(known["target"]), settings), len(test) - len(new))


@dataclass(frozen=True)
class Run:
    """What one training gave."""

    translations: list[str]
    """Of the test split's pairs, in their order."""
    curve: Curve = field(default_factory=dict)


def run(recipe: Recipe, pack: Pack, pairs: Pairs, encoder: Any, settings: Translation, seed: int) -> Run:
    """Trains a fresh decoder together with this encoder, and translates the test split."""
    stored = {split: pack.samples(split)["tokens"] for split in SPLITS}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Translator(encoder, pairs.tokenizer, settings).to(pick_device(recipe.pretrain.device))
        curve = train(model, stored, pairs.splits, settings, recipe.pretrain, seed)
    tokens = tokens_of(stored["test"], pairs.splits["test"])
    order = (tokens != encoder.special["pad"]).sum(1).argsort(stable=True)  # alike lengths together: less padding
    said = [
        text for rows in order.split(BATCH) for text in model.translate(tokens[rows].to(encoder.device), settings.beams)
    ]
    return Run([said[place] for place in order.argsort().tolist()], curve)


def summarize(runs: list[Run], pairs: Pairs, settings: Translation) -> tuple[Metrics, dict[str, str]]:
    """BLEU, chrF and the learning curve of these runs; and sacreBLEU's signatures, which say how the former are counted."""
    scorers = {"bleu": BLEU(tokenize=settings.tokenize), "chrf": CHRF()}
    metrics, references = {}, pairs.splits["test"]["target"].tolist()
    for name, scorer in zip(settings.metrics(), scorers.values(), strict=True):
        scores = [scorer.corpus_score(one.translations, [references], n_bootstrap=settings.resamples) for one in runs]
        finite = float(np.mean([score._ci for score in scores])) / 100
        metrics[name] = interval([min(1.0, score.score / 100) for score in scores], finite, most=1.0)
    for step in runs[0].curve:
        metrics[f"{LOSS}{step}"] = interval([one.curve[step] for one in runs])
    return metrics, {measure: scorer.get_signature().format() for measure, scorer in scorers.items()}


def interval(values: list[float], finite: float = 0.0, most: float = math.inf) -> Cell:
    """Mean and 95% interval: Student's t over the seeds, and half the bootstrap's interval over test sentences (Koehn 2004), added
    in quadrature. One value has the second part alone."""
    mean, half = float(np.mean(values)), math.hypot(t_half(values), finite)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(most, mean + half)}
