"""Keeping a project in order."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ssl_pipeline.commands.shell import AsJson, nothing_on_stdout, project, say

app = typer.Typer()


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Dagster's port.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on; neither server asks for a password.")] = "127.0.0.1",
) -> None:
    """Serve Dagster and MLflow until Ctrl-C."""
    from ssl_pipeline.orchestration.serve import up as serve

    serve(project(), port, mlflow_port, host, say)


@app.command()
def clean(
    older_than: Annotated[float, typer.Option(min=0, help="Days since it was last used.")] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only tell.")] = False,
) -> None:
    """Delete what no recipe uses and no registered version was made from."""
    from rich.console import Console
    from rich.filesize import decimal

    from ssl_pipeline import clean as cleaning

    here = project()
    found = cleaning.leftovers(here, older_than)
    if found:
        Console(width=None if sys.stdout.isatty() else 110).print(cleaning.table(found, here.store.root))
    gone = list(cleaning.remove(here.store, found)) if yes else []
    total = decimal(sum(one.bytes for one in (gone if yes else found)))
    print(f"deleted {total}" if yes else f"{total} may go" + (": ssl-pipeline clean --yes deletes it" if found else ""))
    if cleaning.at_work(here.store):
        print("a stage is being computed: finished stages stay until it is done")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Is everything in place? What is broken is named with its cure, and the exit status is 1."""
    from rich.console import Console

    from ssl_pipeline import doctor as checks

    with nothing_on_stdout(as_json) as stdout:
        found = checks.examine(project())
        if as_json:
            print(checks.as_json(found), file=stdout, flush=True)
        else:
            Console(width=None if sys.stdout.isatty() else 160).print(checks.table(found))
    raise typer.Exit(0 if checks.healthy(found) else 1)
