"""How contenders are timed and how the result is printed: taking turns, so that a busy minute hits all, each in a process of
its own, so that none profits or suffers from another's settings."""

from __future__ import annotations

import json
import multiprocessing
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
Make = Callable[[], Turn]
"""Sets a contender up, in its own process: something that can be pickled, such as a `partial`."""


def race(contenders: dict[str, Make], rounds: int, seconds: float, asleep: tuple[str, ...] = ()) -> dict[str, float]:
    """Units a second of each: the median over rounds in which all take a turn. One more round before it is not counted.

    The threads of those who are `asleep` between operations do not spin: faster where loader workers need the cores."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, make in contenders.items():
        pipes[name], end = spawn.Pipe()
        os.environ.update({"OMP_WAIT_POLICY": "PASSIVE"} if name in asleep else {})
        processes.append(spawn.Process(target=serve, args=(end, make)))
        processes[-1].start()
        os.environ.pop("OMP_WAIT_POLICY", None)
        end.close()  # a contender that dies is then heard of
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for i in range(rounds + 1):
            for name, pipe in pipes.items():
                time.sleep(3)  # while the last one's loader fills its queue
                pipe.send(seconds)
                done, took = pipe.recv()
                if i:
                    rates[name].append(done / took)
            print(f"round {i} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for pipe, process in zip(pipes.values(), processes, strict=True):
            pipe.close()
            process.join(30)
    return {name: median(values) for name, values in rates.items()}


def serve(pipe: Any, make: Make) -> None:
    """Takes turns as they are asked for, until the other end closes."""
    turn = make()
    try:
        while True:
            pipe.send(turn(pipe.recv()))
    except EOFError:
        sys.stdout.flush()
        os._exit(0)  # a training thread stands in the middle of its loop; loader workers end with their parent


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
    native = [f for f in ("amx_bf16", "avx512_bf16") if any(line.startswith("flags") and f in line for line in lines)]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return ", ".join([name, f"{len(os.sched_getaffinity(0))} cores", *native[:1], f"torch {torch.__version__}"]) + gpu


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
