"""Starts the training process, follows its curves, and never leaves it behind.

A process of its own frees all memory when it ends and contains a crash; the parent (a Dagster step or `run_recipe`)
reads the curves from the file that the child writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.store import write_json

FRESH = "fresh.npy"
PATIENCE_SECONDS = 60
"""What the child gets to write its checkpoint after TERM, before KILL."""


@dataclass(frozen=True)
class Start:
    """An encoder to go on from."""

    folder: Path
    fresh: np.ndarray | None = None
    """Rows of the training split that it has not seen, where the others are to be replayed: int64 `[n]`."""


def run(
    recipe: Recipe,
    pack: Pack,
    folder: Path,
    on_rows: Callable[[list[dict[str, float]]], None],
    start: Start | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Trains in a child process, or in `pretrain.processes` of them under torchrun; `on_rows` gets new rows of the curves
    as they come (first all of an earlier attempt's). `start` is what to go on from; `steps` are trained instead of the
    recipe's epochs.

    Returns the summary. Raises PipelineError with the cause where training stopped itself or died; whatever ends this
    process's wait (a cancelled run, Ctrl-C) ends the child too, after its checkpoint.
    """
    (folder / "failure.json").unlink(missing_ok=True)
    packed = {"path": str(pack.path), "facts": pack.facts}
    me = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "pack": packed,
        "start": str(start.folder) if start else None,
        "fresh": start is not None and start.fresh is not None,
        "steps": steps,
        "launcher": me,
    }
    if start and start.fresh is not None:
        np.save(folder / FRESH, start.fresh)
    write_json(folder / "job.json", job)
    processes, environment = recipe.pretrain.processes, dict(os.environ)
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    if torchrun:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with open(folder / "train.log", "a") as log:
        printed = log.tell()
        child = subprocess.Popen(
            [sys.executable, *torchrun, "-m", "ssl_pipeline.pretrain", str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip
    curves = Tail(folder / "metrics.jsonl")
    try:
        while child.poll() is None:
            time.sleep(0.2)
            if rows := curves.read():
                on_rows(rows)
        if rows := curves.read():
            on_rows(rows)
    finally:
        end(child)
    if child.returncode == 0:
        return json.loads((folder / "summary.json").read_text())
    raise PipelineError(f"recipe {recipe.name!r}: {cause(folder, child.returncode, printed)}")


def end(child: subprocess.Popen[bytes]) -> None:
    """TERM to the processes that train, so that they write a checkpoint; then KILL to all there are. torchrun gives each
    of its workers a session of its own, which a signal to the child's group does not reach."""
    if child.poll() is not None:
        return
    family = [psutil.Process(child.pid)]
    family += family[0].children(recursive=True)
    for one in [p for p in family if p.ppid() == child.pid and "ssl_pipeline.pretrain" in words(p)] or family[:1]:
        one.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(PATIENCE_SECONDS)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    child.wait()


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def cause(folder: Path, returncode: int, printed: int = 0) -> str:
    """Why the child failed, in a sentence; what it printed begins at that byte of the log."""
    log = (folder / "train.log").read_bytes()[printed:].decode(errors="replace")
    if worker := re.search(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", log, re.DOTALL):  # torchrun's report
        returncode = int(worker[1])
    if returncode < 0:  # before what the others say, who only saw a connection end
        name = signal.Signals(-returncode).name
        hint = "out of memory? lower pretrain.batch_size; " if name == "SIGKILL" else ""
        return f"training was killed by {name}; {hint}run again to go on from the last checkpoint"
    if (failure := folder / "failure.json").exists():
        return json.loads(failure.read_text())["cause"]
    last = log.strip().splitlines()[-1:] or ["nothing was printed"]
    return f"training ended with status {returncode}: {last[0]} (all of it: {folder / 'train.log'})"


class Tail:
    """The lines of a growing JSON-lines file that were not read yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def read(self) -> list[dict[str, float]]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self.at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
