"""The process that trains: `python -m ssl_pipeline.pretrain FOLDER`, with the job in FOLDER/job.json.

It writes metrics.jsonl as it goes and encoder.safetensors, encoder.json and summary.json at the end. TERM, or the death of
the process that started it, makes it write a checkpoint and leave.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from filelock import FileLock

from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import explain_disk_errors, write_json

INTERRUPTED, FAILED = 143, 3


def main(folder: Path) -> int:
    parent, terminated = os.getppid(), []
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides

    from ssl_pipeline.encoders import encoder as encoders
    from ssl_pipeline.pretext.pack import Pack
    from ssl_pipeline.pretrain.diagnostics import TrainingAlarm
    from ssl_pipeline.pretrain.loop import Interrupted, Row, pretrain
    from ssl_pipeline.recipe import Recipe

    # a killed parent's child may still be writing its last checkpoint here
    with FileLock(f"{folder}.writer"), explain_disk_errors(folder), open(folder / "metrics.jsonl", "ab+") as metrics:
        drop_torn_line(metrics)

        def log(row: Row) -> None:
            metrics.write(json.dumps(row | {"time": time.time()}).encode() + b"\n")
            metrics.flush()

        try:
            job = json.loads((folder / "job.json").read_text())
            recipe, pack = Recipe.model_validate(job["recipe"]), job["pack"]
            encoder, summary = pretrain(
                recipe,
                Pack(Path(pack["path"]), pack["mean"], pack["std"]),
                folder / "checkpoints",
                log,
                lambda: bool(terminated) or os.getppid() != parent,
            )
        except Interrupted:
            return INTERRUPTED
        except (TrainingAlarm, PipelineError, ValueError) as error:
            write_json(folder / "failure.json", {"cause": str(error)})
            return FAILED
        encoders.save(encoder, recipe.encoder, folder)
        write_json(folder / "summary.json", summary)
    return 0


def drop_torn_line(file: IO[bytes]) -> None:
    """Cuts off a last line that a kill or a full disk left without its end."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
