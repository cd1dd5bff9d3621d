"""Paired tests as a section of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssl_pipeline.report.tables import escape

if TYPE_CHECKING:
    from ssl_pipeline.evaluate.paired import Paired


def differences(metric: str, found: Sequence[tuple[tuple[str, str], Paired]]) -> str:
    """`found`: the names of two methods, and what was found of them; differences in points of a hundred."""
    header = ["", "beside", f"{escape(metric)}, difference", "95% interval", "p"]
    rows = [
        [
            escape(ours), escape(theirs), f"{100 * one.difference:+.1f}", f"{100 * one.low:+.1f} to {100 * one.high:+.1f}",
            "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
        ]
        for (ours, theirs), one in found
    ]  # fmt: skip
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, [":--", ":--", "--:", "--:", "--:"], *rows])
    comparisons = f"{len(rows)} comparison{'s' * (len(rows) > 1)}"
    return (
        f"### On the same test samples\n\n{table}\n\nIntervals are over resampled test samples (label draws averaged), p by "
        f"swapping the two methods' scores, corrected for {comparisons} (Holm 1979). Samples of one group count as if they were "
        "independent. The tests are about these trained encoders: another seed of pretraining may differ by more.\n"
    )
