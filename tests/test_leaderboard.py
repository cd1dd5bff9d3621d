"""What the leaderboard compares of numbers without labels, on stages that are only summaries."""

from __future__ import annotations

from types import SimpleNamespace

from ssl_pipeline.leaderboard import Entry, Protocol, label_free

LEADING = "classification/linear/accuracy/all"


def project_of(make_recipe, recipes: dict[str, tuple[str, float, dict]]) -> SimpleNamespace:
    """By recipe: digest of its data, accuracy, summary of its features."""
    evaluated = {
        name: {"made_from": {"features": name, "dataset": digest}, "metrics": {LEADING: {"mean": accuracy}}}
        for name, (digest, accuracy, _) in recipes.items()
    }

    def stage(summary):
        config = {"evaluation": make_recipe().evaluations[0].model_dump(mode="json")}
        return SimpleNamespace(summary=summary, config=config) if summary is not None else None

    return SimpleNamespace(
        store=SimpleNamespace(
            current=lambda owner, kind: stage(evaluated.get(owner)) if kind == "classification" else None,
            get=lambda kind, key: stage(recipes[key][2]),
        )
    )


def test_recipes_of_one_version_of_the_data_stand_together(make_recipe):
    project = project_of(
        make_recipe,
        {
            "a": ("old", 0.5, {"rankme": 7, "dim": 64}),
            "b": ("old", 0.6, {"rankme": 8, "alignment": 0.1}),
            "c": ("new", 0.7, {"rankme": 9}),
        },
    )
    recipes = [make_recipe().model_copy(update={"name": name}) for name in "abcd"]  # d was not evaluated
    assert label_free(project, recipes) == [
        (LEADING, {"a": {"rankme": 7, "accuracy": 0.5}, "b": {"rankme": 8, "alignment": 0.1, "accuracy": 0.6}}),
        (LEADING, {"c": {"rankme": 9, "accuracy": 0.7}}),
    ]


def entry(name: str, baselines: str, methods: dict, controls: tuple = ()) -> Entry:
    summary = {"made_from": {"baselines": baselines}, "baselines": methods, "controls": list(controls)}
    return Entry(SimpleNamespace(name=name), SimpleNamespace(summary=summary), {})


def test_baselines_of_one_encoder_stand_once_and_others_have_their_recipes_name():
    def methods(random, **more):
        return {"random encoder": {"m": random}, "EASE": {"m": 3}} | more

    entries = [
        entry("a", "x", methods(1)),
        entry("b", "y", methods(2, alone={"m": 7}), ["alone"]),
        entry("c", "y", methods(2, alone={"m": 8}), ["alone"]),
    ]
    one = Protocol(None, entries)
    assert one.baselines == {
        "random encoder": {"m": 1}, "EASE": {"m": 3}, "random encoder, b": {"m": 2}, "alone, b": {"m": 7}, "alone, c": {"m": 8}
    }  # fmt: skip
    assert one.name(entries[2], "random encoder") == "random encoder, b" and one.name(entries[2], "c") == "c"
