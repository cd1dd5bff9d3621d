"""The process that trains: `python -m ssl_pipeline.pretrain FOLDER`, with the job in FOLDER/job.json.

It writes metrics.jsonl as it goes and encoder.safetensors, encoder.json and summary.json at the end. TERM, or the death of
the process that started it, makes it write a checkpoint and leave.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretrain.launch import SPEECHLESS
from ssl_pipeline.store import explain_disk_errors, fsync, write_json

INTERRUPTED, FAILED = 143, 3


def main(folder: Path) -> int:
    job = json.loads((folder / "job.json").read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    threading.Thread(target=watch, args=(job["launcher"], stop), daemon=True).start()

    from ssl_pipeline.encoders import encoder as encoders
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.pretrain.distributed import Group
    from ssl_pipeline.pretrain.loop import Interrupted, Row, pretrain
    from ssl_pipeline.pretrain.memory import is_full, more_pieces
    from ssl_pipeline.pretrain.plan import Plan
    from ssl_pipeline.recipe import Recipe

    first = os.environ.get("RANK", "0") == "0"
    recipe, packed = Recipe.model_validate(job["recipe"]), Pack(Path(job["pack"]["path"]), job["pack"]["facts"])
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(explain_disk_errors(folder))
            if first:  # a killed parent's child may still be writing its last checkpoint here
                stack.enter_context(FileLock(f"{folder}.writer"))
                metrics = stack.enter_context(open(folder / "metrics.jsonl", "ab+"))
                drop_torn_line(metrics)

            def log(row: Row) -> None:
                if first:
                    metrics.write(json.dumps(row | {"time": time.time()}).encode() + b"\n")
                    metrics.flush()

            group = Group.join(recipe.pretrain)
            plan = Plan.read(job["plan"], folder)
            encoder, summary = pretrain(recipe, packed, folder / "checkpoints", log, stop.is_set, group, plan)
            group.leave()
            if first:
                encoders.save(encoder, recipe.encoder, packed.facts, folder)
                for file in folder.glob("*.safetensors"):
                    fsync(file)  # before the summary, which says that all is there
                write_json(folder / "summary.json", summary)
    except Interrupted:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        if not (folder / "failure.json").exists():  # of several processes, the first to fail knows why
            now = job["plan"]["accumulate"] or recipe.pretrain.accumulate
            pieces = more_pieces(recipe, packed, now) if is_full(error) else None
            try:
                write_json(folder / "failure.json", {"cause": explain(error), "accumulate": pieces})
            except OSError:
                return SPEECHLESS
        return FAILED
    return 0


def watch(launcher: dict[str, float], stop: threading.Event) -> None:
    """Asks for a stop once the process that started the training is gone, however it went, or the torchrun between them."""
    parent = os.getppid()
    while not stop.wait(1):
        try:
            process = psutil.Process(int(launcher["pid"]))
            gone = process.create_time() != launcher["created"] or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            gone = True
        if gone or os.getppid() != parent:
            stop.set()


def explain(error: Exception) -> str:
    """In a sentence, with the cure where there is one."""
    from ssl_pipeline.pretrain.diagnostics import TrainingAlarm
    from ssl_pipeline.pretrain.memory import is_full

    if isinstance(error, (TrainingAlarm, PipelineError)):
        return str(error)
    said = " ".join(str(error).split()) or type(error).__name__
    if is_full(error):
        return f"memory is full, however small the pieces of a batch: lower pretrain.batch_size or use a smaller encoder ({said})"
    return said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"


def drop_torn_line(file: IO[bytes]) -> None:
    """Cuts off a last line that a kill or a full disk left without its end."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
