"""next_item and masked_items: losses against loops in float64, and the same whoever holds which sample."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pydantic import ValidationError

from ssl_pipeline.encoders.interactions import build
from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder
from ssl_pipeline.pretext import items
from ssl_pipeline.pretext.masked_items import MaskedItems
from ssl_pipeline.pretext.next_item import NextItem

ITEMS = 30
TASKS = {"next_item": (NextItem(), True), "masked_items": (MaskedItems(mask_ratio=0.4, last_share=0.3), False)}


def settings_of(causal, **settings):
    return InteractionsEncoder.model_validate({"length": 6, "width": 16, "dropout": 0, "causal": causal} | settings)


def encoder_of(causal):
    torch.manual_seed(0)
    encoder = build(settings_of(causal), {"items": ITEMS})
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return encoder


def windows(count=12, width=7, seed=0):
    """Left-padded rows of different items; the first ones are of every length from 1, and in some only the last is asked for."""
    random = np.random.default_rng(seed)
    rows = np.stack([random.permutation(ITEMS)[:width] + 1 for _ in range(count)])
    for row, length in enumerate(range(1, width)):
        rows[row, :-length] = 0
    rows[-3:, :-1] *= -1
    return torch.from_numpy(rows)


def asked_places(name, row, places, last):
    """[(place of the answer, answer)] of one window, and what is seen of it, by the papers."""
    row = row.tolist()
    known = [abs(i) for i in row]
    if name == "next_item":
        pairs = [(t, row[t + 1]) for t in range(len(row) - 1) if known[t] and row[t + 1] > 0]
        return pairs, known[:-1]
    hidden = [t for t in sorted(places.tolist()) if row[t] > 0]
    hidden = [len(row) - 1] if last or not hidden else hidden
    return [(t, row[t]) for t in hidden], [ITEMS + 1 if t in hidden else i for t, i in enumerate(known)]


def by_loops(name, encoder, rows, labels):
    """The mean over asked places of the whole batch, each with its own softmax in float64 over items that it does not see."""
    total, count, hits = 0.0, 0, 0
    for number, row in enumerate(rows):
        places = labels["places"][number] if "places" in labels else None
        pairs, seen = asked_places(name, row, places, bool(labels["last"][number]) if "last" in labels else False)
        hidden = encoder.hidden(torch.tensor([seen]))[0]
        for place, answer in pairs:
            logits = encoder.scores(hidden[place]).double()
            visible = set(seen[: place + 1] if name == "next_item" else seen)
            left = [i for i in range(1, ITEMS + 1) if i not in visible]
            total = total - logits[answer - 1] + torch.logsumexp(logits[[i - 1 for i in left]], 0)
            hits += sum(logits[i - 1] > logits[answer - 1] for i in left) < 10
            count += 1
    return total / count, hits / count, count


def batch_of(name, seed=0, rows=None):
    task, causal = TASKS[name]
    rows = windows(width=6 + causal) if rows is None else rows
    return rows, task.draw(len(rows), settings_of(causal), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_against_loops_with_gradients(name):
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    for seed in range(3):
        rows, labels = batch_of(name, seed)
        out = task.step(encoder, task.build_head(encoder), task.render(encoder, rows, labels), labels)
        expected, hits, count = by_loops(name, encoder, rows, labels)
        assert count > len(rows)
        assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert out["hit_at_10"].item() == pytest.approx(hits)
        assert out["embedding"].shape == (len(rows), 16)
        weights = [w for n, w in encoder.named_parameters()]
        for got, want in zip(
            torch.autograd.grad(out["loss"], weights), torch.autograd.grad(expected, weights), strict=True
        ):
            torch.testing.assert_close(got, want.float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_a_window_in_which_nothing_can_be_asked_counts_for_nothing(name):
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    rows, labels = batch_of(name)
    more = torch.cat([rows, torch.zeros_like(rows[:2]), -windows(12, rows.shape[1], seed=9)[6:8].abs()])
    longer = {k: torch.cat([v, v[:4]]) for k, v in labels.items()}
    losses = [
        task.step(encoder, task.build_head(encoder), task.render(encoder, r, la), la)["loss"].item()
        for r, la in ((rows, labels), (more, longer))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    alone = more[len(rows) :]
    labels = {k: v[len(rows) :] for k, v in longer.items()}
    assert task.step(encoder, None, task.render(encoder, alone, labels), labels)["loss"].item() == 0


@pytest.mark.parametrize("name", TASKS)
def test_two_halves_have_the_mean_of_the_whole(name, monkeypatch):
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    rows, labels = batch_of(name)
    whole = task.step(encoder, None, task.render(encoder, rows, labels), labels)["loss"]
    halves = [slice(0, 6), slice(6, 12)]
    counts = []
    monkeypatch.setattr(items.gather, "gather", lambda count: counts.append(count) or count)
    for part in halves:
        own = {k: v[part] for k, v in labels.items()}
        task.step(encoder, None, task.render(encoder, rows[part], own), own)
    everyone = torch.cat(counts)
    assert everyone[0] != everyone[1]
    monkeypatch.setattr(items.gather, "gather", lambda count: everyone)
    losses = []
    for part in halves:
        own = {k: v[part] for k, v in labels.items()}
        losses.append(task.step(encoder, None, task.render(encoder, rows[part], own), own)["loss"].item())
    assert np.mean(losses) == pytest.approx(whole.item(), rel=1e-5)


def one_of_two(rank, name, port, out):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    replica = torch.nn.parallel.DistributedDataParallel(Step(task, encoder))
    rows, labels = batch_of(name)
    own = {k: v.chunk(2)[rank] for k, v in labels.items()}
    loss = replica(rows.chunk(2)[rank], own)
    loss.backward()
    dist.all_reduce(loss.detach())
    if rank == 0:
        torch.save({"loss": loss.item(), "gradients": [w.grad for w in encoder.parameters()]}, out)
    dist.destroy_process_group()


class Step(torch.nn.Module):
    def __init__(self, task, encoder):
        super().__init__()
        self.task, self.encoder = task, encoder

    def forward(self, rows, labels):
        return self.task.step(self.encoder, None, self.task.render(self.encoder, rows, labels), labels)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_give_the_loss_and_gradients_of_one(name, tmp_path):
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    rows, labels = batch_of(name)
    loss = Step(task, encoder)(rows, labels)
    loss.backward()
    port = 29500 + os.getpid() % 2000
    mp.spawn(one_of_two, (name, port, str(tmp_path / "out.pt")), nprocs=2)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["loss"] / 2 == pytest.approx(loss.item(), rel=1e-5)
    for got, weight in zip(found["gradients"], encoder.parameters(), strict=True):
        torch.testing.assert_close(got, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_bf16_keeps_the_softmax_in_fp32(name):
    task, causal = TASKS[name]
    encoder = encoder_of(causal)
    rows, labels = batch_of(name)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = task.step(encoder, None, task.render(encoder, rows, labels), labels)["loss"]
    exact = task.step(encoder, None, task.render(encoder, rows, labels), labels)["loss"]
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_what_is_hidden_is_hidden_and_drawn_by_the_generator():
    task = MaskedItems(mask_ratio=0.3, last_share=0.25)
    labels = task.draw(4000, settings_of(False, length=20), torch.Generator().manual_seed(0))
    assert labels["places"].shape == (4000, 6) and labels["places"].dtype == torch.int16
    assert (labels["places"].sort(1).values.diff(dim=1) > 0).all()  # all different
    counts = torch.bincount(labels["places"].flatten().long(), minlength=20)
    assert (counts / 4000 - 0.3).abs().max() < 0.04 and abs(labels["last"].float().mean() - 0.25) < 0.03
    again = task.draw(4000, settings_of(False, length=20), torch.Generator().manual_seed(0))
    other = task.draw(4000, settings_of(False, length=20), torch.Generator().manual_seed(1))
    assert torch.equal(labels["places"], again["places"]) and not torch.equal(labels["places"], other["places"])
    table = task.table(labels)
    assert len(table) == 4000 and set(table["label"]) == {"the last item", "random items"}


def test_the_sheet_shows_history_and_question():
    names = [chr(ord("A") + i) for i in range(26)]
    rows = torch.tensor([[0, 0, 1, 2, 3, 4, 5], [-9, -8, -7, -6, -5, -4, 3]])
    encoder = build(settings_of(True), {"items": 26, "names": names})
    task = NextItem()
    assert task.picture(encoder, rows, task.draw(2, settings_of(True), None)) == [
        ["A, B, C, D", "E"], ["I, H, G, F, E, D", "C"]
    ]  # fmt: skip
    assert len(task.columns()) == 2 and len(task.table(task.draw(5, settings_of(True), None))) == 5
    encoder = build(settings_of(False), {"items": 26, "names": names})
    labels = {"places": torch.tensor([[0, 3], [0, 2]], dtype=torch.int16), "last": torch.tensor([False, False])}
    assert MaskedItems().picture(encoder, rows[:, 1:], labels) == [["A, B, ?, D, E", "C"], ["H, G, F, E, D, ?", "C"]]


def test_the_wrong_direction_is_refused_with_the_cure():
    assert NextItem().fitted(settings_of(True)) == NextItem()
    assert MaskedItems().fitted(settings_of(False)) == MaskedItems()
    with pytest.raises(ValueError, match="set encoder.causal to true, or pretext.task to masked_items"):
        NextItem().fitted(settings_of(False))
    with pytest.raises(ValueError, match="set encoder.causal to false, or pretext.task to next_item"):
        MaskedItems().fitted(settings_of(True))
    with pytest.raises(ValidationError):
        MaskedItems(mask_ratio=0)
