from __future__ import annotations

import torch

from ssl_pipeline.pretext.text_crops import TextCrops

PAD, CLS, SEP = 0, 2, 3


class Special:
    special = {"pad": PAD, "cls": CLS, "sep": SEP}

    def trim(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


def documents(*lengths: int, width: int = 20) -> torch.Tensor:
    rows = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, n in zip(rows, lengths, strict=True):
        row[0], row[1 : 1 + n], row[1 + n] = CLS, torch.arange(10, 10 + n), SEP
    return rows


def test_spans_against_a_loop():
    task, tokens = TextCrops(min_share=0.2, max_share=1.0), documents(1, 5, 12, 18)
    labels = task.draw(4, None, torch.Generator().manual_seed(3))
    views = task.render(Special(), tokens, labels)
    assert views.shape == (8, 20)
    for view in range(2):
        for i, words in enumerate((1, 5, 12, 18)):
            length = max(1, int(torch.ceil(labels["share"][i, view] * words)))
            start = int(labels["place"][i, view] * (words - length + 1))
            expected = [CLS, *range(10 + start, 10 + start + length), SEP]
            row = views[4 * view + i].tolist()
            assert row[: len(expected)] == expected and set(row[len(expected) :]) <= {PAD}


def test_a_span_of_everything_is_the_document():
    tokens = documents(3, 18)
    task = TextCrops(min_share=1.0, max_share=1.0)
    views = task.render(Special(), tokens, task.draw(2, None, torch.Generator().manual_seed(0)))
    assert torch.equal(views, tokens.repeat(2, 1))
