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
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.plan import Plan
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.store import write_json

PATIENCE_SECONDS = 60
"""What the child gets to write its checkpoint after TERM, before KILL."""
MOST_DEATHS = 3
"""Times that the child may be killed, or crash, before it writes a new checkpoint; after that it would go on like this."""
SPEECHLESS = 4
"""The child's exit status where it could not write why it failed, because the disk is full."""
ASKED_TO_STOP = {signal.SIGTERM, signal.SIGINT}
"""By somebody who means it."""


def run(
    recipe: Recipe,
    pack: Pack,
    folder: Path,
    on_rows: Callable[[list[dict[str, float]]], None],
    plan: Plan | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains in a child process, or in `pretrain.processes` of them under torchrun; `on_rows` gets new rows of the curves
    as they come (first all of an earlier attempt's).

    Where memory is full it goes on from the last checkpoint with each batch in more pieces, which it says, and the summary:
    `accumulate_used`. Nothing of that is remembered: an interrupted training is tried again as the recipe has it. A child that a
    signal ended (the kernel's, where memory ran out; a crash) is started again and goes on, MOST_DEATHS times a checkpoint.

    Returns the summary. Raises PipelineError with the cause where training stopped itself or died; whatever ends this
    process's wait (a cancelled run, Ctrl-C) ends the child too, after its checkpoint.
    """
    curves, plan = Tail(folder / "metrics.jsonl"), plan or Plan()
    deaths, saved, summary = 0, newest_checkpoint(folder), folder / "summary.json"
    if summary.exists():  # it was trained to its end, and what came after that failed
        tell(curves, on_rows)
        return json.loads(summary.read_text())
    while True:
        returncode, printed = attempt(recipe, pack, folder, lambda: tell(curves, on_rows), plan)
        if returncode == 0:
            return json.loads(summary.read_text())
        died = died_of(folder, returncode, printed)
        if died < 0 and -died not in ASKED_TO_STOP:
            before, saved = saved, newest_checkpoint(folder)
            deaths = 1 if saved != before else deaths + 1
            if deaths < MOST_DEATHS:
                killed = f"recipe {recipe.name!r}: training was killed by {signal_name(died)}"
                say(f"{killed}; it goes on from {saved or 'its beginning'}")
                continue
        pieces = failure(folder).get("accumulate") if died > 0 else None
        if pieces is None:
            raise PipelineError(f"recipe {recipe.name!r}: {cause(folder, returncode, printed)}")
        plan = replace(plan, accumulate=pieces)
        from ssl_pipeline.pretrain.memory import told  # imports torch

        say(f"recipe {recipe.name!r}: {told(recipe, pieces)}")


def attempt(recipe: Recipe, pack: Pack, folder: Path, poll: Callable[[], None], plan: Plan) -> tuple[int, int]:
    """One child from its start to its end, `poll` called meanwhile; returns its status, and the byte of the log where what it
    printed begins."""
    (folder / "failure.json").unlink(missing_ok=True)
    packed = {"path": str(pack.path), "facts": pack.facts}
    me = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "pack": packed,
        "plan": plan.write(folder),
        "launcher": me,
    }
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
    try:
        while child.poll() is None:
            time.sleep(0.2)
            poll()
        poll()
    finally:
        end(child)
    return child.returncode, printed


def tell(curves: Tail, on_rows: Callable[[list[dict[str, float]]], None]) -> None:
    if rows := curves.read():
        on_rows(rows)


def end(child: subprocess.Popen[bytes]) -> None:
    """TERM to the processes that train, so that they write a checkpoint; then KILL to all there are, at once where a second
    Ctrl-C does not wait. torchrun gives each of its workers a session of its own, which a signal to the child's group does
    not reach."""
    if child.poll() is not None:
        return
    family = [psutil.Process(child.pid)]
    family += family[0].children(recursive=True)
    for one in [p for p in family if p.ppid() == child.pid and "ssl_pipeline.pretrain" in words(p)] or family[:1]:
        one.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_SECONDS)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += family[0].children(recursive=True)  # started since
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
    returncode = died_of(folder, returncode, printed)
    if returncode < 0:  # before what the others say, who only saw a connection end
        name = signal_name(returncode)
        hint = "out of memory? lower pretrain.batch_size; " if name == "SIGKILL" else ""
        return f"training was killed by {name}; {hint}run again to go on from the last checkpoint"
    if returncode == SPEECHLESS:
        return f"training could not write to {folder}: free space there; run again to go on from the last checkpoint"
    if known := failure(folder):
        return known["cause"]
    last = log_from(folder, printed).strip().splitlines()[-1:] or ["nothing was printed"]
    return f"training ended with status {returncode}: {last[0]} (all of it: {folder / 'train.log'})"


def died_of(folder: Path, returncode: int, printed: int) -> int:
    """The status of the process that failed first, negative where a signal killed it."""
    worker = re.search(
        r"Root Cause.*?exitcode\s*:\s*(-?\d+)", log_from(folder, printed), re.DOTALL
    )  # torchrun's report
    return int(worker[1]) if worker else returncode


def signal_name(returncode: int) -> str:
    return signal.Signals(-returncode).name


def newest_checkpoint(folder: Path) -> str:
    """Its name, `step-00000120`; empty where there is none."""
    return max((file.stem for file in folder.glob("checkpoints/step-*.json")), default="")


def failure(folder: Path) -> dict[str, Any]:
    """What the child wrote of it: its `cause`, and into how many pieces to `accumulate` where memory was full."""
    file = folder / "failure.json"
    return json.loads(file.read_text()) if file.exists() else {}


def log_from(folder: Path, printed: int) -> str:
    return (folder / "train.log").read_bytes()[printed:].decode(errors="replace")


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
