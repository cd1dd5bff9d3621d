from __future__ import annotations

from ssl_pipeline.report.agreement import agreement

METRIC = "classification/linear/accuracy/all"


def recipe(rankme: float, alignment: float, accuracy: float) -> dict[str, float]:
    return {"rankme": rankme, "alignment": alignment, "accuracy": accuracy}


def test_three_recipes_get_a_section_that_says_how_little_it_proves():
    said = agreement({"a": recipe(9, 0.1, 0.2), "b": recipe(5, 0.4, 0.5), "c": recipe(2, 0.6, 0.9)}, METRIC)
    assert said.startswith("## How far to trust the numbers without labels\n")
    assert "| RankMe, directions in use (higher is better) | -1.00 | 0.33 | 3 |" in said
    assert "| alignment (lower is better) | -1.00 | 0.33 | 3 |" in said
    assert "3 recipes prove little" in said and "probability of 0.33" in said
    assert "classification/linear/accuracy/all" in said


def test_two_recipes_get_none():
    assert agreement({"a": recipe(9, 0.1, 0.2), "b": recipe(5, 0.4, 0.5)}, METRIC) == ""
    assert agreement({}, METRIC) == ""
