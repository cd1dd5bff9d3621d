"""Scores against sacreBLEU's own functions, beam search against a loop, and a toy language that can be learnt."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sacrebleu
import torch
from pydantic import ValidationError
from scipy import stats

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.evaluate import translator
from ssl_pipeline.evaluate.settings_translation import Translation
from ssl_pipeline.evaluate.translation import Pairs, Run, baselines, compared, interval, own, pairs_of, run, summarize
from ssl_pipeline.evaluate.translator import Translator, target_tokenizer, tokens_of, train
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.text import write
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.report import pictures
from ssl_pipeline.report.tables import rows_of

WORDS = ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"]
COUNTS = {"train": 200, "validation": 20, "test": 40}
BLEU, CHRF = "translation/beam_4/bleu/all", "translation/beam_4/chrf/all"
TOY = {
    "kind": "translation", "steps": 150, "batch_size": 50, "learning_rate": 5e-3, "layers": 1, "width": 64, "dropout": 0.0,
    "vocabulary": 330, "longest": 24, "seeds": 2, "resamples": 100,
}  # fmt: skip


def recipe_of(**settings) -> Recipe:
    encoder = {"kind": "text", "layers": 1, "width": 64, "heads": 2, "length": 16, "vocabulary": 300, "dropout": 0.0}
    return Recipe.model_validate(
        {
            "name": "toy", "dataset": "numbers", "encoder": encoder, "pretext": {"task": "masked_language"},
            "pretrain": {"precision": "fp32"}, "evaluations": [TOY | settings],
        }
    )  # fmt: skip


def numbers(seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Numbers of four to seven digits, and how they are said digit by digit."""
    random = np.random.default_rng(seed)
    said: dict[str, str] = {}
    while len(said) < sum(COUNTS.values()):
        digits = random.integers(0, 10, random.integers(4, 8))
        said[" ".join(map(str, digits))] = " ".join(WORDS[digit] for digit in digits)
    left = iter(said.items())
    return {split: [next(left) for _ in range(count)] for split, count in COUNTS.items()}


def pack_of(folder, pairs) -> Pack:
    (tree := folder / "tree").mkdir()
    with Shards(tree, Texts()) as shards:
        for split in SPLITS:
            for i, (text, target) in enumerate(pairs[split]):
                sample = Texts().read(text.encode(), {"target": target})
                row = {"sample_id": sample.identity, "label": None, "group": None, "source": f"{split}/{i}"}
                shards.add(split, row | sample.columns)
    (path := folder / "pack").mkdir()
    return Pack(path, write(tree, path, recipe_of().encoder))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("numbers"), numbers())


def fresh(pack, recipe):
    torch.manual_seed(0)
    return build(recipe.encoder, pack.given)


@pytest.fixture(scope="module")
def trained(pack):
    """A translator after a few steps, which is sure of little, and the test split's tokens."""
    recipe = recipe_of(steps=90)
    settings, encoder = recipe.evaluations[0], fresh(pack, recipe)
    pairs = pairs_of(recipe, pack, settings)
    model = Translator(encoder, pairs.tokenizer, settings)
    stored = {split: pack.samples(split)["tokens"] for split in SPLITS}
    train(model, stored, pairs.splits, settings, recipe.pretrain, 0)
    return model.eval(), tokens_of(stored["test"], pairs.splits["test"])


def test_a_toy_language_is_learnt_and_shuffled_pairs_are_not(pack, tmp_path):
    recipe = recipe_of()
    result = own(recipe, pack, fresh(pack, recipe), {}, pack.path, recipe.evaluations[0])
    assert result.metrics[BLEU]["mean"] > 0.5 and result.metrics[CHRF]["mean"] > 0.5
    assert all(0 <= cell["low"] <= cell["mean"] <= cell["high"] for cell in result.metrics.values())
    losses = [cell["mean"] for name, cell in result.metrics.items() if "/loss/" in name]
    assert len(losses) == 10 and losses[-1] < losses[0] / 2

    random = np.random.default_rng(1)
    mixed = {
        split: [(text, rows[i][1]) for (text, _), i in zip(rows, random.permutation(len(rows)), strict=True)]
        for split, rows in numbers().items()
    }
    shuffled = pack_of(tmp_path, mixed)
    settings = recipe.evaluations[0]
    pairs = pairs_of(recipe, shuffled, settings)
    one = run(recipe, shuffled, pairs, fresh(shuffled, recipe), settings, 0)
    # what a translator scores that knows the language but not the text
    targets = [target for _, target in numbers(2)["test"]]
    chance = sacrebleu.corpus_bleu(targets, [pairs.splits["test"]["target"].tolist()]).score / 100
    assert summarize([one], pairs, settings)[0][BLEU]["mean"] < chance + 0.05 < 0.2


def test_pictures_captions_and_tables(pack):
    recipe = recipe_of(steps=10)
    settings = recipe.evaluations[0]
    heard: list[str] = []
    result = own(recipe, pack, fresh(pack, recipe), {}, pack.path, settings)
    others = baselines(recipe, pack, settings, heard.append)
    assert list(others) == ["random encoder", "copied source", "translation memory"]
    assert heard == ["copied source, translation memory", "random encoder, seed 1 of 2", "random encoder, seed 2 of 2"]
    assert set(settings.metrics()) == {BLEU, CHRF} and settings.leading() == BLEU
    assert set(settings.metrics()) < set(result.metrics) and others["copied source"][BLEU]["mean"] == 0
    assert others["translation memory"][CHRF]["mean"] > 0.2
    for name, (kind, *what) in (result.pictures | compared({"toy": result.metrics} | others)).items():
        assert getattr(pictures, kind)(*what).startswith(b"\x89PNG"), name
    (_, curves) = compared({"toy": result.metrics} | others)["learning_curves"]
    assert list(curves) == ["toy", "random encoder"] and [point[0] for point in curves["toy"]] == list(range(1, 11))
    assert result.facts["test_samples"] == 40
    assert "tok:13a" in settings.caption(result.facts) and "40 test sentences" in settings.caption(result.facts)
    (row,) = rows_of("toy", "masked_language", result.metrics)
    assert row["probe"] == "beam 4" and list(row["shots"]) == ["bleu", "chrf"]


def test_training_is_the_seeds_alone(pack):
    recipe = recipe_of(steps=10)
    settings, pairs = recipe.evaluations[0], pairs_of(recipe, pack, recipe.evaluations[0])
    runs = []
    for seed in (0, 0, 1):
        encoder = fresh(pack, recipe)
        torch.manual_seed(len(runs))
        state = torch.get_rng_state()
        runs.append(run(recipe, pack, pairs, encoder, settings, seed))
        assert torch.equal(state, torch.get_rng_state())
    assert runs[0] == runs[1] and runs[0].curve != runs[2].curve


def test_an_encoder_that_knows_the_numbers_is_worth_steps(pack):
    """One that was trained with another decoder, beside a random one."""
    known = recipe_of()
    settings, encoder = known.evaluations[0], fresh(pack, known)
    pairs = pairs_of(known, pack, settings)
    run(known, pack, pairs, encoder, settings, 7)
    few = settings.model_copy(update={"steps": 60})
    before = copy.deepcopy(encoder.state_dict())
    warm = run(known, pack, pairs, copy.deepcopy(encoder), few, 0)
    cold = run(known, pack, pairs, fresh(pack, known), few, 0)
    assert warm.curve[60] < cold.curve[60] - 0.1
    own(known, pack, encoder, {}, pack.path, few.model_copy(update={"steps": 1}))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def judged(references, *translations, **settings):
    test = pd.DataFrame({"text": references, "target": references})
    return summarize(
        [Run(list(said)) for said in translations], Pairs({"test": test}, None, 0), Translation(**settings)
    )


def noisy(references, seed, share=0.3):
    random = np.random.default_rng(seed)
    return [
        " ".join(word for word in text.split() if random.random() > share) + "." * random.integers(2)
        for text in references
    ]


@pytest.fixture(scope="module")
def references():
    random = np.random.default_rng(0)
    vocabulary = ["The", "fox", "(red)", "isn't", "3.5", "quick,", "über", "dogs", "and", "cats", "ran."]
    return [" ".join(random.choice(vocabulary, random.integers(5, 12))) for _ in range(60)]


@pytest.mark.parametrize("tokenize", ["13a", "char"])
def test_scores_are_those_of_sacrebleu(references, tokenize):
    said = [noisy(references, seed) for seed in range(3)]
    metrics, signatures = judged(references, *said, tokenize=tokenize)
    bleu = [sacrebleu.corpus_bleu(one, [references], tokenize=tokenize).score / 100 for one in said]
    chrf = [sacrebleu.corpus_chrf(one, [references]).score / 100 for one in said]
    assert metrics[BLEU]["mean"] == pytest.approx(np.mean(bleu)) and 0.1 < np.mean(bleu) < 0.9
    assert metrics[CHRF]["mean"] == pytest.approx(np.mean(chrf))
    assert f"tok:{tokenize}" in signatures["bleu"] and "nc:6" in signatures["chrf"]
    assert judged(references, references)[0][BLEU] == pytest.approx({"mean": 1, "low": 1, "high": 1})


def test_intervals_are_over_sentences_and_seeds(references):
    said = noisy(references, 0)
    (metrics, _), random = judged(references, said), np.random.default_rng(3)
    drawn = [random.integers(0, 60, 60) for _ in range(400)]
    spread = [
        sacrebleu.corpus_bleu([said[i] for i in rows], [[references[i] for i in rows]]).score / 100 for rows in drawn
    ]
    low, high = np.quantile(spread, (0.025, 0.975))
    assert metrics[BLEU]["high"] - metrics[BLEU]["low"] == pytest.approx(high - low, rel=0.15)
    values = [0.2, 0.3, 0.25]
    cell = interval(values)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (cell["low"], cell["high"]) == pytest.approx(expected)
    assert interval(values, 0.1)["high"] - 0.25 == pytest.approx(np.hypot(0.1, expected[1] - 0.25))
    assert interval([0.9], 0.3, most=1.0) == pytest.approx({"mean": 0.9, "low": 0.6, "high": 1.0})


def test_one_beam_is_greedy(trained):
    model, tokens = trained
    written = torch.full((len(tokens), 1), model.start)
    with torch.inference_mode():
        for _ in range(23):  # without a cache, and past the end, which decoding then cuts off
            seen = {"attention_mask": torch.ones_like(written), "use_cache": False} | model.encoded(tokens)
            written = torch.cat([written, model.decoder(written, **seen).logits[:, -1:].argmax(2)], dim=1)
    end = model.decoder.config.eos_token_id
    rows = [row[: row.index(end)] if end in row else row for row in written.tolist()]
    greedy = [text.strip() for text in model.tokenizer.decode_batch(rows)]
    assert model.translate(tokens, 1) == greedy and len(set(greedy)) > 10


def test_more_beams_find_likelier_translations(trained):
    """By log-probability a token, as they are ranked, counted from outside."""
    model, tokens = trained

    def score(texts):
        targets = model.targets(texts)
        with torch.inference_mode():
            return torch.tensor([-model(tokens[i : i + 1], targets[i : i + 1]).item() for i in range(len(tokens))])

    one, eight = (score(model.translate(tokens, beams)) for beams in (1, 8))
    assert (eight > one + 1e-4).sum() > 3 * (eight < one - 1e-4).sum() and (eight > one + 1e-4).any()


def test_padding_and_neighbours_change_no_translation(trained):
    model, tokens = trained
    alone = [text for row in tokens[:8] for text in model.translate(row[None], 4)]
    assert model.translate(tokens[:8], 4) == alone


def test_the_decoders_tokenizer_sees_training_targets_alone(pack, monkeypatch):
    learnt: list[str] = []
    original = translator.train_tokenizer

    def spy(texts, *rest, **options):
        learnt.extend(texts)
        return original(iter(learnt), *rest, **options)

    monkeypatch.setattr(translator, "train_tokenizer", spy)
    recipe = recipe_of(steps=1)
    baselines(recipe, pack, recipe.evaluations[0], lambda said: None)
    assert sorted(learnt) == sorted(target for _, target in numbers()["train"])


def test_targets_are_cut_and_padded():
    tokenizer = target_tokenizer(iter(["Uno due tre"] * 5), Translation(vocabulary=300, longest=6))
    ids = [encoding.ids for encoding in tokenizer.encode_batch(["Uno", "due tre due tre due tre due tre"])]
    assert len(ids[0]) == len(ids[1]) == 6 and ids[1][0] == 2 and ids[1][-1] == 3 and ids[0][-1] in (0, 3)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "Uno"


def test_test_pairs_that_training_has_seen_are_left_out(tmp_path):
    pairs = numbers()
    (known, _), (_, said), *_ = pairs["train"]
    new = pairs["test"][2:]
    pairs["test"] = [(known, "mai detto"), ("9 9 9 9 9 9 9 9 9", said), *new]
    recipe = recipe_of()
    found = pairs_of(recipe, pack_of(tmp_path, pairs), recipe.evaluations[0])
    assert found.seen == 2 and sorted(found.splits["test"]["text"]) == sorted(text for text, _ in new)
    limited = pairs_of(
        recipe, Pack(tmp_path / "pack", {}), recipe.evaluations[0].model_copy(update={"test_sentences": 10})
    )
    assert len(limited.splits["test"]) == 10


def test_a_dataset_without_pairs_is_refused(tmp_path):
    alone = {split: [(text, None) for text, _ in rows] for split, rows in numbers().items()}
    pack, recipe = pack_of(tmp_path, alone), recipe_of()
    for call in (
        lambda: own(recipe, pack, None, {}, pack.path, recipe.evaluations[0]),
        lambda: baselines(recipe, pack, recipe.evaluations[0], print),
    ):
        with pytest.raises(PipelineError, match="'numbers'.*has another side.*source's target.*parallel, or leave"):
            call()


def test_settings():
    with pytest.raises(ValidationError, match="width 100 is not a multiple of heads 3: set heads to 2"):
        Translation(width=100, heads=3)
    with pytest.raises(ValidationError, match="translation is for text encoders"):
        Recipe.model_validate(
            {"name": "a", "dataset": "a", "pretext": {"task": "simclr"}, "evaluations": [{"kind": "translation"}]}
        )
    code = "import sys; import ssl_pipeline.evaluate.settings_translation; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
