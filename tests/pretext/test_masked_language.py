"""What is hidden, what is shown instead, and the loss against transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.text import build
from ssl_pipeline.pretext.masked_language import MaskedLanguage
from ssl_pipeline.pretext.packing.tokens import special_in, train_tokenizer

TEXTS = [
    f"The {a} {b} jumps over {c} lazy dogs; they don't mind."
    for a in ("quick", "slow")
    for b in ("fox", "cat")
    for c in "12"
]
LENGTH = 64


@pytest.fixture(scope="module")
def facts():
    tokenizer = train_tokenizer(iter(TEXTS * 3), 320)
    return {
        "vocabulary": tokenizer.get_vocab_size(), "special": special_in(tokenizer)._asdict(), "tokenizer": tokenizer.to_str(),
    }  # fmt: skip


def setup(facts, architecture="bert", **settings):
    torch.manual_seed(0)
    part = TextEncoder(layers=2, width=32, heads=2, length=LENGTH, architecture=architecture, vocabulary=305)
    encoder = build(part, facts)
    return encoder, part, MaskedLanguage(**settings).fitted(part)


def blocks_of(encoder, count=40, seed=0):
    """Random text with a [CLS] before it and some [SEP] in it."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, encoder.vocabulary, (count, LENGTH), generator=generator)
    tokens[:, 0] = 2
    return tokens.masked_fill(torch.rand(count, LENGTH, generator=generator) < 0.1, 3)


def rendered(task, encoder, part, tokens, seed=1):
    labels = task.draw(len(tokens), part, torch.Generator().manual_seed(seed))
    return task.render(encoder, tokens, labels), labels


@pytest.mark.parametrize("whole_words", [False, True])
def test_hides_as_many_places_in_every_block_and_never_special_tokens(facts, whole_words):
    encoder, part, task = setup(facts, whole_words=whole_words)
    tokens = blocks_of(encoder)
    (shown, places, target), labels = rendered(task, encoder, part, tokens)
    assert places.shape == target.shape == (40, round(0.3 * LENGTH))
    assert all(len(set(row)) == len(row) for row in places.tolist())
    assert torch.equal(tokens.gather(1, places), target) and (target > 4).all()
    untouched = torch.ones_like(tokens, dtype=torch.bool).scatter(1, places, False)
    assert torch.equal(shown[untouched], tokens[untouched])
    instead = shown.gather(1, places)
    assert (instead == 4).sum(1).unique().tolist() == [15]  # 80% of 19
    changed = (instead != target) & (instead != 4)
    assert changed.sum(1).max() <= 2 and changed.sum() > 60  # 10%, of which few happen to be what stood there
    assert {name: value.dtype for name, value in labels.items()} == {"noise": torch.int16, "random": torch.int32}


def test_every_place_is_as_likely_and_draws_decide(facts):
    encoder, part, task = setup(facts)
    tokens = blocks_of(encoder, 1).expand(4000, -1)
    (shown, places, _), _ = rendered(task, encoder, part, tokens)
    counts = torch.bincount(places.flatten(), minlength=LENGTH)[tokens[0] > 4] / 4000
    expected = 19 / int((tokens[0] > 4).sum())
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected * (1 - expected) / 4000)
    again, _ = rendered(task, encoder, part, tokens)
    assert torch.equal(again[0], shown)
    assert not torch.equal(rendered(task, encoder, part, tokens, seed=2)[0][0], shown)


def test_whole_words_are_hidden_together(facts):
    pieces = train_tokenizer(iter(TEXTS), 268)  # seven merges: nearly every word is in pieces
    cut = {"vocabulary": 268, "special": facts["special"], "tokenizer": pieces.to_str()}
    encoder, part, task = setup(cut, whole_words=True)
    ids = encoder.tokenizer.encode(" ".join(TEXTS), add_special_tokens=False).ids[: LENGTH - 1]
    tokens = torch.tensor([[2, *ids]]).repeat(200, 1)
    (_, places, _), _ = rendered(task, encoder, part, tokens)
    hidden = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, places, True)
    goes_on = encoder.continues(tokens)
    assert goes_on[0].sum() > 10
    torn = (hidden[:, 1:] != hidden[:, :-1]) & goes_on[:, 1:]
    assert torn.sum(1).max() <= 1  # the last word, where the number of places ends


@pytest.mark.parametrize("separators", [50, 62, 63])
def test_blocks_of_hardly_any_text(facts, separators):
    encoder, part, task = setup(facts)
    tokens = blocks_of(encoder, 3)
    tokens[:, 1 : 1 + separators] = 3
    tokens[:, 1 + separators :] = tokens[:, 1 + separators :].clamp(min=9)
    views, labels = rendered(task, encoder, part, tokens)
    _, places, target = views
    wanted = set(range(1 + separators, LENGTH)) or {places[0, 0].item()}
    assert all(set(row) == wanted for row in places.tolist())
    assert torch.equal(tokens.gather(1, places), target)
    assert task.step(encoder, task.build_head(encoder), views, labels)["loss"].isfinite()


def test_the_loss_is_transformers_own_at_the_same_places(facts):
    encoder, part, task = setup(facts)
    head = task.build_head(encoder)
    torch.nn.init.normal_(head.bias)
    tokens = blocks_of(encoder)
    views, labels = rendered(task, encoder, part, tokens)
    encoder.eval()
    ours = task.step(encoder, head, views, labels)
    config = BertConfig(**encoder.backbone.config.to_dict() | {"layer_norm_eps": 1e-12})
    theirs = BertForMaskedLM(config).eval()
    theirs.bert.load_state_dict(encoder.backbone.state_dict())
    transform = theirs.cls.predictions.transform
    transform.load_state_dict({k: v for k, v in head.state_dict().items() if k != "bias"})
    transform.LayerNorm.eps = 1e-5
    theirs.cls.predictions.bias.data.copy_(head.bias)
    shown, places, target = views
    wanted = torch.full_like(tokens, -100).scatter(1, places, target)
    expected = theirs(input_ids=shown, labels=wanted)
    assert ours["loss"].item() == pytest.approx(expected.loss.item(), rel=1e-5)
    hits = (expected.logits.argmax(2) == wanted)[wanted >= 0].float().mean()
    assert ours["accuracy"].item() == pytest.approx(hits.item())
    ours["loss"].backward()
    expected.loss.backward()
    for name, weight in theirs.bert.named_parameters():
        torch.testing.assert_close(encoder.backbone.get_parameter(name).grad, weight.grad, atol=1e-6, rtol=1e-3)


def test_is_computed_in_fp32_inside_bf16_autocast(facts):
    encoder, part, task = setup(facts)
    head = task.build_head(encoder)
    views, labels = rendered(task, encoder.eval(), part, blocks_of(encoder))
    exact = task.step(encoder, head, views, labels)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = task.step(encoder, head, views, labels)["loss"]
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=5e-3)


def test_the_mean_over_two_halves_of_a_batch_is_the_whole(facts):
    encoder, part, task = setup(facts)
    head = task.build_head(encoder)
    tokens = blocks_of(encoder)
    tokens[::3, 5:] = 3  # blocks of hardly any text among others
    views, labels = rendered(task, encoder.eval(), part, tokens)
    whole = task.step(encoder, head, views, labels)["loss"]
    halves = [
        task.step(encoder, head, tuple(v[part] for v in views), labels)["loss"] for part in (slice(20), slice(20, 40))
    ]
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_untrained_it_guesses_and_perplexity_is_of_the_mean_loss(facts):
    encoder, part, task = setup(facts)
    views, labels = rendered(task, encoder, part, blocks_of(encoder))
    loss = task.step(encoder, task.build_head(encoder), views, labels)["loss"].item()
    assert loss == pytest.approx(task.collapse_loss(40), abs=0.1) and task.collapse_loss(40) == math.log(305)
    assert task.derived({"loss": 2.0, "accuracy": 0.5}) == {"perplexity": pytest.approx(math.exp(2))}
    assert MaskedLanguage().fitted(TextEncoder(pretrained="folder")).collapse_loss(40) is None


@pytest.mark.parametrize(("architecture", "most"), [("bert", 2.0), ("modernbert", 3.0)])
def test_learns_text(facts, architecture, most):
    """The tokens' frequencies alone give 2.79; guessing 5.72."""
    encoder, part, task = setup(facts, architecture)
    head = task.build_head(encoder)
    ids = [t for text in TEXTS * 10 for t in [*encoder.tokenizer.encode(text, add_special_tokens=False).ids, 3]]
    blocks = torch.tensor([[2, *ids[at : at + LENGTH - 1]] for at in range(0, len(ids) - LENGTH, LENGTH - 1)])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
    for step in range(50):
        views, labels = rendered(task, encoder, part, blocks, seed=step)
        out = task.step(encoder, head, views, labels)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert out["loss"] < most and out["embedding"].shape == (len(blocks), 32)


def test_table_and_picture(facts):
    encoder, part, task = setup(facts)
    ids = encoder.tokenizer.encode(" ".join(TEXTS), add_special_tokens=False).ids[: LENGTH - 1]
    tokens = torch.tensor([[2, *ids]])
    labels = task.draw(1, part, torch.Generator().manual_seed(0))
    (row,) = task.picture(encoder, tokens, labels)
    assert len(row) == len(task.columns()) and row[0].startswith("the quick fox jumps over")
    assert row[1].count("[MASK]") == 15 and "[MASK]" not in row[0] + row[2]
    table = task.table(labels)
    _, places, _ = task.render(encoder, tokens, labels)
    asked = [place for place in table["places"][0] if place]  # 0 is the [CLS]
    assert len(table) == 1 and len(table["places"][0]) == 19 and asked == places[0, : len(asked)].tolist()


@pytest.mark.slow
def test_a_step_compiles_in_one_piece(facts):
    from ssl_pipeline.part import late

    encoder, part, task = setup(facts)
    head = task.build_head(encoder)
    views, labels = rendered(task, encoder.eval(), part, blocks_of(encoder))
    plain = task.step(encoder, head, views, labels)["loss"]
    late.settle()

    def loss_of(*views):
        return task.step(encoder, head, views, labels)["loss"]

    compiled = torch.compile(loss_of, dynamic=False, fullgraph=True)(*views)
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-4)
