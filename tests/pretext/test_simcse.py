from __future__ import annotations

import math

import pytest
import torch

from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.text import build
from ssl_pipeline.pretext.packing.tokens import special_in, train_tokenizer
from ssl_pipeline.pretext.simcse import SimCSE

WORDS = ["fox", "cat", "dog", "owl", "hen", "rat", "elk", "bee", "ant", "cow"]
TEXTS = [f"The {a} and the {b} ran." for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def made():
    tokenizer = train_tokenizer(iter(TEXTS), 320)
    facts = {
        "vocabulary": tokenizer.get_vocab_size(), "special": special_in(tokenizer)._asdict(), "tokenizer": tokenizer.to_str(),
    }  # fmt: skip
    torch.manual_seed(0)
    part = TextEncoder(layers=2, width=32, heads=2, length=16)
    tokenizer.enable_padding(length=16)
    tokens = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(TEXTS)])
    return build(part, facts), part, tokens


def test_the_loss_is_nt_xent_of_two_readings(made):
    encoder, part, tokens = made
    task = SimCSE()
    head = task.build_head(encoder)
    labels = task.draw(len(tokens), part, torch.Generator())
    torch.manual_seed(3)
    out = task.step(encoder.train(), head, tokens, labels)
    torch.manual_seed(3)
    z = torch.nn.functional.normalize(head(encoder(torch.cat([tokens, tokens]))).double(), dim=1)
    assert not torch.allclose(z[:100], z[100:])
    similar = (z @ z.T / 0.05).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(similar, torch.arange(200).roll(100))
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert out["embedding"].shape == (200, 32)


def test_validation_asks_the_same_question(made):
    encoder, _, tokens = made
    task = SimCSE()
    head = task.build_head(encoder)
    losses = []
    for mode in (True, False):
        encoder.train(mode)
        torch.manual_seed(4)
        losses.append(task.step(encoder, head, tokens, {})["loss"].item())
        assert encoder.training is mode
    assert losses[0] == losses[1]


def test_without_dropout_there_is_no_task():
    with pytest.raises(ValueError, match=r"encoder.dropout 0 .* set it to 0.1"):
        SimCSE().fitted(TextEncoder(dropout=0))


def test_learns_to_tell_documents_apart(made):
    encoder, _, tokens = made
    task = SimCSE()
    head = task.build_head(encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    assert task.trains_on == "samples"
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        out = task.step(encoder.train(), head, task.render(encoder, tokens, {}), {})
        losses.append(out["loss"].item())
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.3 * task.collapse_loss(100)
    assert task.collapse_loss(100) == math.log(199)


def test_table_and_picture(made):
    encoder, part, tokens = made
    task = SimCSE()
    labels = task.draw(100, part, torch.Generator())
    assert task.table(labels)["readings"].tolist() == [2] * 100
    assert task.picture(encoder, tokens[:2], labels) == [
        ["the fox and the fox ran.[SEP]"],
        ["the fox and the cat ran.[SEP]"],
    ]
    assert len(task.columns()) == 1
