"""`ssl-pipeline`: the few commands that dagster, dvc and mlflow do not already have.

Everything slow is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ssl_pipeline.commands import models, operate
from ssl_pipeline.commands.shell import AsJson, nothing_on_stdout, project, say
from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from ssl_pipeline.project import Project
    from ssl_pipeline.recipe import Recipe

app = typer.Typer(
    help="From a folder of unlabelled data to a registered, honestly evaluated encoder.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

app.add_typer(models.app)
app.add_typer(operate.app)

DEMO = ["digits_rotation", "digits_inpainting", "digits_simclr"]

To = Annotated[str, typer.Option(help="Last stage to run.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Dagster's own log too.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and underscores.")],
    data: Annotated[Path, typer.Option(help="A folder, an archive, a table or a text file, of any modality.")],
    pretext: Annotated[str | None, typer.Option(help="The pretext task; by default the data's usual one.")] = None,
) -> None:
    """Look at data and write a recipe for it."""
    from ssl_pipeline import new as recipes

    file, found = recipes.write(project(), name, data, pretext)
    for line in recipes.describe(found):
        print(line)
    print(f"wrote   {file}")
    print(f"next    ssl-pipeline run {name}")


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="Recipes; a dataset's name means all recipes on it.")],
    to: To = "registered_model",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run recipes from source to registered model, recorded in Dagster; what is there already is reused."""
    from ssl_pipeline import chain
    from ssl_pipeline.orchestration.defs_folder import choose, load_all
    from ssl_pipeline.orchestration.project_definitions import check

    here = project()
    broken: list[str] = []
    datasets, recipes = load_all(here, broken)
    try:
        chosen = choose(recipes, names)
        check(datasets, recipes)
    except PipelineError as error:  # for want of what is broken, it may be
        raise PipelineError("; ".join([*broken, str(error)])) from error
    for wrong in broken:
        print(f"warning: left out: {wrong}", file=sys.stderr)
    stages, made = {one.name: chain.stages_of(one, to) for one in chosen}, set[str]()
    with nothing_on_stdout(as_json) as stdout:
        from ssl_pipeline.orchestration.run import run as materialize

        try:
            materialize(here, datasets, recipes, chosen, to, say, verbose, made.add)
        except KeyboardInterrupt:
            print("stopped: run again to go on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        finally:
            compare(here, [one for one in chosen if evaluated(one, stages[one.name], made)])
        results = [result(here, one, stages[one.name]) for one in chosen]
        for one in chosen:
            if card := model_card(here, one, stages[one.name]):
                say(f"card    {one.name}: {card}")
        if as_json:
            print(json.dumps(results[0] if len(results) == 1 else {"recipes": results}), file=stdout, flush=True)


@app.command()
def demo(
    every: Annotated[
        bool, typer.Option("--all", help="Every recipe that comes with the package, of every modality.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Three pretext tasks on 5,000 handwritten digits, compared."""
    from ssl_pipeline.orchestration.defs_folder import load_all

    run([recipe.name for recipe in load_all(project())[1]] if every else DEMO, verbose=verbose)
    print("look    make up     (Dagster and MLflow in the browser)")
    print("use     .venv/bin/ssl-pipeline embed digits_simclr FOLDER -o embeddings.parquet")


@app.command()
def status(as_json: AsJson = False) -> None:
    """What there is: datasets with their versions, recipes with their champions, and what failed last."""
    from ssl_pipeline.orchestration.defs_folder import load_all

    here, wrong = project(), list[str]()
    datasets, recipes = load_all(here, wrong)
    with nothing_on_stdout(as_json) as stdout:
        try:
            champions = {r.name: champion(here, r.name) for r in recipes}
        except PipelineError as error:
            champions = {}
            wrong.append(str(error))
        report = {
            "tracking_uri": here.tracking_place,
            "datasets": [{"name": d.name, "digest": digest(here, d.name)} for d in datasets],
            "recipes": [
                {"name": r.name, "modality": r.encoder.kind, "model": r.name, "champion": champions.get(r.name)}
                for r in recipes
            ],
            "failed": [*wrong, *failures(here)],
        }
        if as_json:
            print(json.dumps(report), file=stdout, flush=True)
        else:
            show_status(report)


def evaluated(recipe: Recipe, stages: list[str], made: set[str]) -> bool:
    """Whether all of its evaluations were made; a table of earlier ones would pass for this run's."""
    wanted = {f"{recipe.name}/{part.kind}" for part in recipe.evaluations if part.kind in stages}
    return bool(wanted) and wanted <= made


def model_card(here: Project, recipe: Recipe, stages: list[str]) -> Path | None:
    registered = here.store.current(recipe.name, "registered_model") if "registered_model" in stages else None
    return registered.path / "model_card.md" if registered else None


def result(here: Project, recipe: Recipe, stages: list[str]) -> dict[str, Any]:
    """What a program wants to know of a recipe's run; null where it did not go so far."""
    found = {stage: here.store.current(recipe.name, stage) for stage in stages}
    evaluated = [stage.summary for part in recipe.evaluations if (stage := found.get(part.kind))]
    baselines: dict[str, Any] = {}
    for summary in evaluated:
        for method, metrics in summary["baselines"].items():
            baselines.setdefault(method, {}).update(metrics)
    registered = found.get("registered_model")
    return {
        "recipe": recipe.name,
        "dataset": digest(here, recipe.dataset),
        "metrics": {k: v for summary in evaluated for k, v in summary["metrics"].items()} if evaluated else None,
        "baselines": baselines if evaluated else None,
        "model": registered.summary["name"] if registered else None,
        "version": registered.summary["version"] if registered else None,
        "champion": champion(here, recipe.name) if registered else None,
    }


def digest(here: Project, dataset: str) -> str | None:
    stage = here.store.current(dataset, "dataset")
    return stage.summary["digest"] if stage else None


def champion(here: Project, model: str) -> int | None:
    """The champion's version. No MLflow is started, and no database made, only to hear that there is none."""
    if not here.has_tracking:
        return None
    from ssl_pipeline import tracking

    found = tracking.champion(tracking.Tracker(here.tracking_uri, here.artifacts), model)
    return found.version if found else None


def compare(here: Project, recipes: list[Recipe]) -> None:
    """The table of these recipes and the baselines, a dataset at a time."""
    from rich.console import Console

    from ssl_pipeline import leaderboard

    for dataset in dict.fromkeys(r.dataset for r in recipes):
        for table in leaderboard.comparisons(here, dataset, recipes):
            Console(width=None if sys.stdout.isatty() else 110).print(table.rich())


def failures(here: Project) -> list[str]:
    """What failed and was not made since; where that cannot be read, why."""
    from ssl_pipeline.orchestration.health import failed

    try:
        return failed(here)
    except PipelineError as error:
        return [str(error)]


def show_status(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    data, models = Table(title="datasets", title_justify="left"), Table(title="recipes", title_justify="left")
    for title in ("name", "version"):
        data.add_column(title)
    for one in report["datasets"]:
        data.add_row(one["name"], one["digest"] or "not built")
    for title in ("name", "modality", "model", "champion"):
        models.add_column(title)
    for one in report["recipes"]:
        version = one["champion"]
        models.add_row(one["name"], one["modality"], one["model"], "none" if version is None else f"version {version}")
    console = Console()
    console.print(data, models, f"MLflow: {report['tracking_uri']}")
    for why in report["failed"]:
        console.print(f"failed: {why}", style="red", markup=False)


def main() -> NoReturn:
    """The entry point: what a user can cure is one line on stderr and exit status 1."""
    try:
        app(prog_name="ssl-pipeline")
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
