"""What a person sees while it trains: a bar with images a second and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_SECONDS = 15
"""Time between two lines where there is no terminal to draw a bar on."""


@contextmanager
def bar(name: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Shows rows of the training curve on stderr: as a bar in a terminal, as a line now and then in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(name)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("steps  {task.fields[speed]}"),
        TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None, speed="starting")

        def show(row: dict[str, float]) -> None:
            progress.update(task, completed=int(row["step"]), total=int(row["total_steps"]))
            if "samples_per_second" in row:
                progress.update(task, speed=describe(row))

        yield show


def lines(name: str) -> Callable[[dict[str, float]], None]:
    last = started = time.monotonic()
    first_step: list[float] = []

    def show(row: dict[str, float]) -> None:
        nonlocal last
        first_step.append(row["step"]) if not first_step else None
        now, done, total = time.monotonic(), row["step"], row["total_steps"]
        if "samples_per_second" not in row or (now - last < QUIET_SECONDS and done < total):
            return
        last = now
        eta = (now - started) * (total - done) / max(1, done - first_step[0])
        print(f"{name}: step {done:.0f} of {total:.0f}, {describe(row)}, ETA {eta:.0f} s", file=sys.stderr, flush=True)

    return show


def describe(row: dict[str, float]) -> str:
    waiting = f", {row['data_wait_share']:.0%} waiting for data" if row["data_wait_share"] > 0.05 else ""
    return f"{row['samples_per_second']:,.0f} samples/s, loss {row['loss']:.3f}{waiting}"
