"""What commands share: the project, and what goes to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ssl_pipeline.project import Project

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]


def say(line: str) -> None:
    print(line, flush=True)


def project() -> Project:
    from ssl_pipeline.project import Project

    return Project.find()


@contextmanager
def nothing_on_stdout(wanted: bool) -> Iterator[Any]:
    """Sends what libraries and child processes print to stderr, and gives the real stdout."""
    if not wanted:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as stdout, redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        try:
            yield stdout
        finally:
            stdout.flush()
            os.dup2(stdout.fileno(), 1)
