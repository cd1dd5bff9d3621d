"""The head that sorts: pieces of a clip are compared two by two, and all comparisons decide together.

Lee, Huang, Singh, Yang 2017, "Unsupervised Representation Learning by Sorting Sequences", section 3.2: features of each pair
are concatenated, one layer makes a comparison of them, and a last layer maps all comparisons to the classes.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn


class PairwiseHead(nn.Module):
    """features `[batch, pieces, dim]` in the order shown -> logits `[batch, classes]`"""

    def __init__(self, dim: int, pieces: int, hidden_dim: int, classes: int) -> None:
        super().__init__()
        pairs = list(combinations(range(pieces), 2))
        self.first, self.second = ([pair[side] for pair in pairs] for side in (0, 1))
        self.compare = nn.Sequential(
            nn.Linear(3 * dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True)
        )
        self.decide = nn.Linear(len(pairs) * hidden_dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        first, second = features[:, self.first], features[:, self.second]
        pairs = torch.cat([first, second, (first - second).abs()], 2)  # [batch, pairs, 3 * dim]
        compared = self.compare(pairs.flatten(0, 1))  # [batch * pairs, hidden_dim]
        return self.decide(compared.unflatten(0, (len(features), -1)).flatten(1))
