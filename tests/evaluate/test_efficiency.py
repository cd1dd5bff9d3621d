from __future__ import annotations

import json

import pytest

from ssl_pipeline.evaluate.efficiency import efficiency_table, labels_saved, said

LABELS = {"1pct": 3.5, "10": 10, "100": 100, "all": 350.0}


def metrics(kind: str, probe: str, **accuracy: float) -> dict[str, dict[str, float]]:
    return {
        f"{kind}/{probe}/{measure}/{shots.strip('_')}": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        for shots, mean in accuracy.items()
        for measure in ("accuracy", "macro_f1")
    }


def test_labels_saved_between_two_shot_counts():
    supervised = metrics("classification", "supervised", _10=0.5, _100=0.9, all=0.95)
    ours = metrics("classification", "linear", _10=0.7, _100=0.8) | metrics("classification", "knn", _10=0.99)
    saved = labels_saved(ours, supervised, LABELS)
    # halfway from 0.5 to 0.9 is halfway from 10 to 100 on the logarithmic axis: the geometric mean
    assert saved == {
        "labels": 10,
        "supervised_labels": pytest.approx(31.6),
        "factor": pytest.approx(3.16),
        "at_least": False,
    }
    assert said(saved) == (
        "With 10 labels a class it is as accurate as supervised training with 32 labels a class (3.2 times as many)."
    )


def test_labels_saved_where_the_curves_do_not_meet():
    supervised = metrics("classification", "supervised", _10=0.5, _100=0.9, all=0.95)
    saved = labels_saved(metrics("classification", "linear", _10=0.97), supervised, LABELS)
    assert saved == {"labels": 10, "supervised_labels": 350.0, "factor": 35.0, "at_least": True}
    assert "more than 350" in said(saved) and json.loads(json.dumps(saved)) == saved
    assert labels_saved(metrics("classification", "linear", _10=0.45), supervised, LABELS) is None
    assert labels_saved(metrics("classification", "linear", _10=0.45), {}, LABELS) is None
    assert labels_saved({"detection/loss": {"mean": 1.0}}, {"detection/loss": {"mean": 1.0}}, {}) is None
    assert labels_saved(metrics("classification", "linear", _1pct=0.45), supervised, LABELS) is None, (
        "not the same fewest"
    )


def test_curves_are_of_accuracy_alone():
    ours = metrics("classification", "linear", _1pct=0.4, _10=0.5, all=0.9) | metrics("classification", "knn", _10=0.6)
    tuned = metrics("fine_tuning", "full", _10=0.7)
    methods = {"ours": ours | tuned, "supervised": metrics("fine_tuning", "full", _10=0.6)}
    table = efficiency_table(methods, LABELS)
    assert {name: [(p[0], p[1]) for p in points] for name, points in table.items()} == {
        "ours": [(3.5, 0.4), (10, 0.5), ("all", 0.9)],
        "ours, fine-tuned": [(10, 0.7)],
        "supervised": [(10, 0.6)],
    }
    assert [p[0] for p in efficiency_table(methods)["ours"]] == [10, "all"]
    assert efficiency_table({"x": {"features/rankme": {"mean": 3.0, "low": 3.0, "high": 3.0}}}) == {}
