"""How far numbers without labels put recipes in the order that probes with labels put them in, in words and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ssl_pipeline.features.measures import MEASURES, rank_correlation
from ssl_pipeline.report.tables import escape


def agreement(recipes: Mapping[str, Mapping[str, float]], metric: str) -> str:
    """A section of Markdown from each recipe's label-free numbers and its `accuracy`, which is what `metric` names; all of
    one dataset. Empty where fewer than three recipes can be compared."""
    found = rank_correlation(list(recipes.values()))
    if not found:
        return ""
    header = ["measure", "Kendall's tau", "p", "recipes"]
    rows = [
        [MEASURES[one.measure].described, f"{one.tau:+.2f}", f"{one.p_value:.2f}", str(one.recipes)] for one in found
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, [":--", "--:", "--:", "--:"], *rows])
    n = max(one.recipes for one in found)
    luck = min(1.0, 2 / math.factorial(n))
    return (
        "## How far to trust the numbers without labels\n\n"
        f"Do they put these recipes in the order of {escape(metric)}? Tau is 1 where every pair of recipes stands in the same "
        f"order, 0 where half of them do, -1 where none does; p is how often recipes in random order would agree or disagree as "
        f"much.\n\n{table}\n\n"
        f"{n} recipes prove little: in random order they agree or disagree throughout with a probability of {luck:.2g}, and with "
        f"{len(found)} measures one of them easily looks good. The accuracies have intervals of their own, which this leaves out. "
        "What holds here need not hold for other data.\n"
    )
