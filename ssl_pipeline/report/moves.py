"""The history of a model's aliases, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssl_pipeline.report.ink import plain

if TYPE_CHECKING:
    from rich.table import Table

    from ssl_pipeline.tracking import Move


def moves_table(moves: Sequence[Move]) -> Table:
    """A line a move, the newest last."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("when (UTC)", "alias", "version", "who", "why"):
        table.add_column(column, overflow="fold")
    for move in moves:
        came = f"{move.version}" + (f" (after {move.before})" if move.before else "")
        alias = f"{move.alias}, back" if move.back else move.alias
        table.add_row(move.when[:19].replace("T", " "), alias, came, plain(move.who, 60), plain(move.why, 400))
    return table
