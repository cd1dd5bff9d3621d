"""All recipes of a dataset beside their baselines: tables, paired tests, what quality costs, how far to trust numbers without
labels; to Markdown and to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.chain import Say, upstream
from ssl_pipeline.part import late
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.record import open_tracker
from ssl_pipeline.store import Stage

if TYPE_CHECKING:
    from ssl_pipeline.report.tables import Cell, Comparison

agreements = late("ssl_pipeline.report.agreement")
differences = late("ssl_pipeline.report.differences")
curves = late("ssl_pipeline.evaluate.efficiency")
measures = late("ssl_pipeline.features.measures")
paired = late("ssl_pipeline.evaluate.paired")
pictures = late("ssl_pipeline.report.pictures")
tables = late("ssl_pipeline.report.tables")

CODE_VERSION = "5"


@dataclass(frozen=True)
class Entry:
    """A recipe that was evaluated."""

    recipe: Recipe
    stage: Stage
    """Of the evaluation."""
    cost: dict[str, Any]
    """Summary of what trained its encoder; empty where that is gone."""


@dataclass(frozen=True)
class Protocol:
    """What was evaluated in one way: the same data, settings and task."""

    settings: Any
    entries: list[Entry]

    @property
    def baselines(self) -> dict[str, Any]:
        """Metrics by name, controls among them."""
        return {
            self.name(entry, method): metrics
            for entry in self.entries
            for method, metrics in entry.stage.summary["baselines"].items()
        }

    def name(self, entry: Entry, method: str) -> str:
        """That of a method of this entry in all tables. Recipes with the same encoder share their baselines; those of another
        encoder, where they differ, and controls of all recipes but the first have the recipe's name."""
        key = baselines_of(entry)
        owner = next(one for one in self.entries if baselines_of(one) == key)
        first, own = self.entries[0], entry.stage.summary["baselines"]
        shared = method not in entry.stage.summary.get("controls", [])
        teller = owner if shared else entry
        if (
            method == entry.recipe.name
            or teller is first
            or own[method] == first.stage.summary["baselines"].get(method)
        ):
            return method
        return f"{method}, {teller.recipe.name}"


def baselines_of(entry: Entry) -> str:
    """The key of their stage."""
    return entry.stage.summary["made_from"]["baselines"]


def leaderboard(project: Project, dataset_name: str, recipes: list[Recipe], say: Say = print) -> Stage:
    """The stage: leaderboard.md, its pictures, and an MLflow run that holds both."""
    evaluated = {f"{r.name} {e.kind}": upstream(project, r.name, e.kind) for r in recipes for e in r.evaluations}
    config, inputs = {"dataset": dataset_name}, {name: stage.key for name, stage in evaluated.items()}

    def write(folder: Path) -> dict[str, Any]:
        found = protocols(project, dataset_name, recipes)
        parts = []
        for one in found:
            title = f"## {one.settings.kind.replace('_', ' ')}"
            parts += [title, table_of(dataset_name, one).markdown(), tests(project, one)]
        parts += [agreements.agreement(numbers, metric) for metric, numbers in label_free(project, recipes)]
        markdown = "\n\n".join(filter(None, parts))
        (folder / "leaderboard.md").write_text(markdown)
        kinds = [one.settings.kind for one in found]
        for number, one in enumerate(found):
            kind, before = kinds[number], kinds[:number].count(kinds[number])
            name = f"{kind}_{before + 1}" if before else kind
            if len(one.entries) > 1 and (drawn := cost(one)):
                (folder / f"cost_{name}.png").write_bytes(drawn)
            methods = {entry.recipe.name: entry.stage.summary["metrics"] for entry in one.entries} | one.baselines
            if table := curves.efficiency_table(methods, one.entries[0].stage.summary.get("labels_a_class")):
                (folder / f"efficiency_{name}.png").write_bytes(pictures.efficiency(table))
        key = project.store.key("leaderboard", config, inputs, CODE_VERSION)
        return {"recipes": len(recipes), "table": markdown} | log(project, dataset_name, key, found, folder)

    stage = project.store.build("leaderboard", config, inputs, CODE_VERSION, write, on_wait=say)
    project.store.set_current(dataset_name, stage)
    return stage


def protocols(project: Project, dataset_name: str, recipes: list[Recipe]) -> list[Protocol]:
    """Those of these recipes on the dataset that were evaluated as they say now, together where that was in the same way."""
    found: dict[tuple[str, str, str], Protocol] = {}
    for recipe in recipes:
        for settings in recipe.evaluations:
            stage = measured(project, recipe, settings)
            if recipe.dataset != dataset_name or not stage:
                continue
            key = (
                settings.model_dump_json(),
                str(settings.task_of(recipe.encoder)),
                stage.summary["made_from"]["dataset"],
            )
            extracted = project.store.get("features", stage.summary["made_from"]["features"])
            trained = extracted and project.store.get(
                "pretrained_encoder", extracted.summary["made_from"]["pretrained_encoder"]
            )
            entry = Entry(recipe, stage, trained.summary if trained else {})
            found.setdefault(key, Protocol(settings, [])).entries.append(entry)
    return list(found.values())


def measured(project: Project, recipe: Recipe, settings: Any) -> Stage | None:
    """The evaluation's current stage, unless its settings were changed since."""
    stage = project.store.current(recipe.name, settings.kind)
    return stage if stage and stage.config["evaluation"] == settings.model_dump(mode="json") else None


def comparisons(project: Project, dataset_name: str, recipes: list[Recipe]) -> list[Comparison]:
    """A table a protocol."""
    return [table_of(dataset_name, one) for one in protocols(project, dataset_name, recipes)]


def table_of(dataset_name: str, one: Protocol) -> Comparison:
    rows: list[Any] = []
    for entry in one.entries:
        spent = [entry.cost.get(what) for what in tables.SPENT]
        rows += tables.rows_of(entry.recipe.name, entry.recipe.pretext.task, entry.stage.summary["metrics"], *spent)
    for method, metrics in one.baselines.items():
        rows += tables.rows_of(method, "", metrics, baseline=True)
    return tables.comparison(rows, f"{dataset_name}: {one.settings.caption(one.entries[0].stage.summary)}")


def leading(one: Protocol, metrics: dict[str, Any]) -> Any:
    """A method's value of the metric that the protocol leads with; the supervised baseline has it under its own name."""
    return next((metrics[name] for name in one.settings.compared() if name in metrics), None)


def tests(project: Project, one: Protocol) -> str:
    """A section of Markdown: each recipe beside every other one and every baseline, on the same test samples. Empty where no
    scores were kept of samples."""
    own: dict[str, Any] = {}
    for entry in one.entries:
        reference = project.store.get("baselines", baselines_of(entry))
        scores = paired.read(entry.stage.path) | (paired.read(reference.path) if reference else {})
        for method in dict.fromkeys(method for method, _ in scores):
            values = leading(one, by_metric(scores, method))
            if values is not None:
                own[one.name(entry, method)] = values
    names = [entry.recipe.name for entry in one.entries if entry.recipe.name in own]
    pairs = [*combinations(names, 2), *((name, other) for name in names for other in own if other not in names)]
    found = paired.corrected([paired.compare(own[ours], own[theirs]) for ours, theirs in pairs])
    return differences.differences(one.settings.leading(), list(zip(pairs, found, strict=True))) if pairs else ""


def by_metric(scores: dict[tuple[str, str], Any], method: str) -> dict[str, Any]:
    return {metric: values for (name, metric), values in scores.items() if name == method}


def cost(one: Protocol) -> bytes | None:
    """The picture of the leading metric against the time of pretraining; None where no time is known."""
    recipes = {
        entry.recipe.name: (entry.cost["train_seconds"], cell_of(leading(one, entry.stage.summary["metrics"])))
        for entry in one.entries
        if entry.cost.get("train_seconds")
    }
    lines = [
        name for name in one.entries[0].stage.summary["baselines"] if name == "supervised" or not tables.strong(name)
    ]
    baselines = {name: cell_of(cell) for name in lines if (cell := leading(one, one.baselines[name]))}
    return pictures.cost(one.settings.leading(), recipes, baselines) if recipes else None


def cell_of(cell: dict[str, float]) -> Cell:
    return tables.Cell(cell["mean"], cell["low"], cell["high"])


def label_free(project: Project, recipes: list[Recipe]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """For recipes that share a probe's metric and a version of the data: that metric, and by recipe its measures without labels
    and the metric's value as its `accuracy`."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for recipe in recipes:
        settings = next((e for e in recipe.evaluations if e.kind == "classification"), None)
        stage = measured(project, recipe, settings) if settings else None
        extracted = project.store.get("features", stage.summary["made_from"]["features"]) if stage else None
        if stage and settings and extracted:
            numbers = {name: extracted.summary[name] for name in measures.MEASURES if name in extracted.summary}
            numbers["accuracy"] = stage.summary["metrics"][settings.leading()]["mean"]
            found.setdefault((settings.leading(), stage.summary["made_from"]["dataset"]), {})[recipe.name] = numbers
    return [(metric, numbers) for (metric, _), numbers in found.items()]


def log(project: Project, dataset_name: str, key: str, found: list[Protocol], folder: Path) -> dict[str, str]:
    """Numbers, table and pictures to a run of the dataset's experiment; returns where it is."""
    tracker = open_tracker(project)
    run_id = tracker.run(dataset_name, "leaderboard", key, {"dataset": dataset_name, "leaderboard": "true"}, {})
    values = {
        f"{entry.recipe.name}/{one.settings.leading()}": cell["mean"]
        for one in found
        for entry in one.entries
        if (cell := leading(one, entry.stage.summary["metrics"]))
    }
    tracker.log_metrics(run_id, values)
    tracker.log_files(run_id, sorted(folder.glob("leaderboard.md")) + sorted(folder.glob("*.png")), "leaderboard")
    tracker.end(run_id)
    return {"mlflow_run_id": run_id, "mlflow_url": tracker.url(run_id)}
