"""Is there room for a stage? Asked before it starts, because a disk that fills up after hours costs the hours.

The rule: twice the largest input, and never less than 1 GB; or what `SSL_PIPELINE_FREE_GB` says. It is an estimate: a pack of
decoded JPEG files may be ten times its dataset, and most stages write much less than they read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ssl_pipeline.part import PipelineError

LEAST = 1_000_000_000


def asked_for() -> int | None:
    """Bytes that must be free before any stage starts, where somebody has said so."""
    said = os.environ.get("SSL_PIPELINE_FREE_GB")
    try:
        return None if said is None else round(float(said) * 1e9)
    except ValueError as error:
        raise PipelineError(
            f"SSL_PIPELINE_FREE_GB is {said!r}: set it to a number of gigabytes, or unset it"
        ) from error


def needed(largest_input: int) -> int:
    """Bytes, by the rule."""
    said = asked_for()
    return max(LEAST, 2 * largest_input) if said is None else said


def free(path: Path) -> int:
    """Bytes that are free where this file or folder is, or will be."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """It, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def refuse_full(root: Path, stage: str, largest_input: int) -> None:
    """Raises PipelineError, with what is needed and what is free, where a stage may not have room."""
    need, there = needed(largest_input), free(root)
    if there < need:
        why = (
            f"twice its largest input of {gb(largest_input)}"
            if 2 * largest_input == need
            else "the least that is asked for"
        )
        raise PipelineError(
            f"{stage}: {gb(there)} are free in {root}, and {gb(need)} are needed ({why}): free space, `ssl-pipeline clean`, set "
            "SSL_PIPELINE_STORE to a larger disk, or SSL_PIPELINE_FREE_GB lower"
        )


def gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
