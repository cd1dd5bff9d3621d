"""The head that sorts: pieces of a clip are compared two by two, and all comparisons decide together.

Lee, Huang, Singh, Yang 2017, "Unsupervised Representation Learning by Sorting Sequences", section 3.2: the features of each pair
are concatenated, one layer makes a comparison of them, and a last layer maps all comparisons to the classes. Here a pair's
absolute difference stands beside the two: with little data the layer does not find it by itself.
"""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from torch import Tensor, nn


class OrderHead(nn.Module):
    """Asks one clip's pieces in several orders: each pair is compared once, however many orders it stands in."""

    orders: Tensor
    """`[orders, pieces]`: the piece, counted in time, that stands at each place."""
    class_of: Tensor
    """`[orders]`"""
    pairs: Tensor
    """`[orders, pairs of places]`: which ordered pair of pieces stands at each two places."""

    def __init__(self, dim: int, hidden_dim: int, orders: list[tuple[int, ...]], class_of: list[int]) -> None:
        super().__init__()
        pieces = len(orders[0])
        ordered = list(permutations(range(pieces), 2))
        self.first, self.second = ([pair[side] for pair in ordered] for side in (0, 1))
        places = list(combinations(range(pieces), 2))
        self.register_buffer("orders", torch.tensor(orders))
        self.register_buffer("class_of", torch.tensor(class_of))
        pairs = [[ordered.index((order[i], order[j])) for i, j in places] for order in orders]
        self.register_buffer("pairs", torch.tensor(pairs))
        self.compare = nn.Sequential(
            nn.Linear(3 * dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True)
        )
        self.decide = nn.Linear(len(places) * hidden_dim, max(class_of) + 1)

    def forward(self, features: Tensor, asked: Tensor) -> Tensor:
        """features `[batch, pieces, dim]` in the order of time, numbers of the orders asked `[batch, questions]` -> logits
        `[batch, questions, classes]`"""
        first, second = features[:, self.first], features[:, self.second]
        both = torch.cat([first, second, (first - second).abs()], 2)  # [batch, ordered pairs, 3 * dim]
        compared = self.compare(both.flatten(0, 1)).unflatten(0, both.shape[:2])  # [batch, ordered pairs, hidden_dim]
        chosen = self.pairs[asked].flatten(1)  # [batch, questions * pairs of places]
        told = compared.gather(1, chosen[..., None].expand(-1, -1, compared.shape[2]))
        return self.decide(told.unflatten(1, (asked.shape[1], -1)).flatten(2))
