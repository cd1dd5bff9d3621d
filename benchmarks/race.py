"""How contenders are timed and how the result is printed: in one process, taking turns, so that a busy minute hits all."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Turn = Callable[[float], tuple[float, float]]
"""Works for about so many seconds; returns the units of work done and the seconds they took."""


def race(contenders: dict[str, Turn], rounds: int, seconds: float) -> dict[str, float]:
    """Units a second of each: the median over rounds in which all take a turn. One more round before it is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, turn in contenders.items():
            done, took = turn(seconds)
            if i:
                rates[name].append(done / took)
        print(f"round {i} of {rounds}", file=sys.stderr, flush=True)
    return {name: median(values) for name, values in rates.items()}


def repeat(step: Callable[[], Any], units: float) -> Turn:
    """A contender that calls `step`, each time `units` of work."""

    def turn(seconds: float) -> tuple[float, float]:
        started, count = time.perf_counter(), 0
        while (took := time.perf_counter() - started) < seconds or not count:
            step()
            count += 1
        return count * units, took

    return turn


def machine() -> str:
    """Processor, cores and torch's version."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {len(os.sched_getaffinity(0))} cores{gpu}, torch {torch.__version__}"


def report(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """One JSON object a line, or a table."""
    if as_json:
        for row in rows:
            print(json.dumps(row | {"machine": machine()}))
        return
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0].get(name), str) else "right")
    for row in rows:
        table.add_row(*[shown(row.get(name)) for name in columns])
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)
