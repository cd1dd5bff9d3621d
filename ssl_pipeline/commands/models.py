"""Registered models: which version serves, how it came about, and going back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ssl_pipeline.commands.shell import AsJson, nothing_on_stdout, project, say

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="A registered model, which has its recipe's name.")]
Why = Annotated[str, typer.Option(help="The reason, for the history.")]
Uri = Annotated[str, typer.Argument(help="NAME (its champion), models:/NAME@ALIAS or models:/NAME/VERSION")]


@app.command()
def promote(
    name: Name,
    version: Annotated[int | None, typer.Option(help="By default the challenger.")] = None,
    why: Why = "approved by hand",
) -> None:
    """Make a version the champion."""
    from ssl_pipeline.approval import approve

    say(approve(project(), name, version, why))


@app.command()
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(help="By default the champion before this one.")] = None,
    why: Why = "rolled back by hand",
) -> None:
    """Make the champion before this one the champion again."""
    from ssl_pipeline.approval import roll_back

    say(roll_back(project(), name, to, why))


@app.command()
def history(name: Name, as_json: AsJson = False) -> None:
    """Which version served when, by whom it was promoted, and why."""
    from ssl_pipeline import tracking
    from ssl_pipeline.record import open_tracker

    with nothing_on_stdout(as_json) as stdout:
        moves = tracking.history(open_tracker(project()), name)
        if as_json:
            print(json.dumps([asdict(move) for move in moves]), file=stdout, flush=True)
            return
        from rich.console import Console

        from ssl_pipeline.report.moves import moves_table

        Console().print(moves_table(moves))


@app.command()
def trace(uri: Uri, as_json: AsJson = False) -> None:
    """From a registered version back to its run, recipe, commit and data."""
    from ssl_pipeline.lineage import trace as follow

    with nothing_on_stdout(as_json) as stdout:
        found = follow(project(), uri)
        if as_json:
            print(json.dumps(found), file=stdout, flush=True)
        else:
            for what, value in found.items():
                say(f"{what.replace('_', ' '):<10}  {value}")


@app.command()
def reproduce(uri: Uri) -> None:
    """Restore the data of a registered version, train it again, and compare the weights."""
    from ssl_pipeline.lineage import reproduce as again

    say(again(project(), uri, say))


@app.command()
def embed(
    uri: Uri,
    path: Annotated[Path, typer.Argument(help="A folder, an archive, a table or a text file, of the model's kind.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
) -> None:
    """Embed images, sounds, videos, texts or series with a registered model."""
    from ssl_pipeline.embed import embed as write

    write(project(), uri, path.expanduser().absolute(), output.expanduser().absolute(), say)


@app.command()
def serve(
    uri: Uri,
    port: Annotated[int, typer.Option(help="The server's port.")] = 5001,
    host: Annotated[str, typer.Option(help="Address to listen on; the server asks for no password.")] = "127.0.0.1",
) -> None:
    """Serve a registered model of images, sounds or texts until Ctrl-C: files and strings in, embeddings out."""
    from ssl_pipeline.orchestration.model_server import serve as until_stopped

    until_stopped(project(), uri, port, host, say)


@app.command()
def export(
    uri: Uri,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    format: Annotated[
        str,
        typer.Option("--format", help="safetensors, onnx, timm, transformers, torchvision, tensorflow or keras_hub."),
    ] = "safetensors",
) -> None:
    """Turn a registered encoder into what another runtime opens, compared there."""
    from ssl_pipeline.export.export import export as write

    write(project(), uri, format, output.expanduser().absolute(), say)
