"""Where a project's recipes are, and all of them, read without Dagster."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ssl_pipeline import recipe
from ssl_pipeline.part import PipelineError, did_you_mean
from ssl_pipeline.project import Project

PACKAGED = Path(__file__).parent.parent / "defs"


def root_module(project: Project) -> tuple[Path, str]:
    """The folder of the nearest pyproject.toml with a `[tool.dg.project]`, and its root module."""
    for folder in (project.root, *project.root.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            settings = tomllib.loads(file.read_text()).get("tool", {}).get("dg", {}).get("project", {})
            if module := settings.get("root_module"):
                return folder, module
    return project.root, "ssl_pipeline"


def defs_folder(project: Project) -> Path:
    """The folder with a folder a recipe; it need not exist yet."""
    folder, module = root_module(project)
    return folder.joinpath(*module.split("."), "defs")


def has_own(project: Project) -> bool:
    """Whether the project has recipes outside this package."""
    folder = defs_folder(project)
    return folder.is_dir() and folder != PACKAGED


def files(project: Project) -> list[Path]:
    """Every defs.yaml of the project, or of this package where the project has none of its own."""
    return sorted((defs_folder(project) if has_own(project) else PACKAGED).rglob("defs.yaml"))


def load_all(project: Project, broken: list[str] | None = None) -> tuple[list[recipe.Dataset], list[recipe.Recipe]]:
    """Every dataset and recipe of the project, or of this package where the project has none of its own.

    What is wrong with a file (which field, and why) goes to `broken`; without it, raises PipelineError.
    """
    datasets: list[recipe.Dataset] = []
    recipes: list[recipe.Recipe] = []
    for file in files(project):
        try:
            more_datasets, more_recipes = recipe.load(file)
        except PipelineError as error:
            if broken is None:
                raise
            broken.append(str(error))
        else:
            datasets += more_datasets
            recipes += more_recipes
    return datasets, recipes


def choose(recipes: list[recipe.Recipe], names: list[str]) -> list[recipe.Recipe]:
    """The recipes of these names; a dataset's name stands for all recipes on it. Raises PipelineError for any other."""
    chosen: list[recipe.Recipe] = []
    for name in names:
        found = [r for r in recipes if r.name == name] or [r for r in recipes if r.dataset == name]
        if not found:
            known = [r.name for r in recipes]
            every = ", ".join(known) or "none: make one with `ssl-pipeline new`"
            hint = did_you_mean(name, known) or f"; there are {every}"
            raise PipelineError(f"there is no recipe {name!r}{hint}")
        chosen += [r for r in found if r not in chosen]
    return chosen
