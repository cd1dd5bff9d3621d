"""The policy: what becomes the champion, beside the one that reigns. What is measured stands here; that it is measured rightly is
tested where whole recipes run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_pipeline import promotion
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.tracking import aliases, history, promote, register, rollback, versions

NAME = "digits_simclr"


def recipe(**policy) -> Recipe:
    evaluations = [] if policy.get("metric", "").startswith("features") else [{"kind": "classification"}]
    return Recipe.model_validate(
        {
            "name": NAME,
            "dataset": "digits",
            "pretext": {"task": "simclr"},
            "evaluations": evaluations,
            "promote": policy,
        }
    )


@pytest.fixture
def judge(tracker, encoder, monkeypatch):
    """Registers a version and judges it: `judge(recipe, own, champion's)`; numbers are means, arrays scores of test samples."""
    run_id = tracker.run("digits", "simclr", "k1")

    def cell(value) -> dict:
        scored = isinstance(value, np.ndarray)
        return {"mean": float(np.mean(value))} | ({"scores": value} if scored else {})

    def judge(recipe, own, theirs=None, meanwhile=lambda: None) -> promotion.Decision:
        version = register(tracker, run_id, NAME, f"k{len(versions(tracker, NAME))}", encoder, [], {}, "")
        monkeypatch.setattr(promotion, "measured", lambda *_: cell(own))

        def champions(*_) -> dict:
            meanwhile()
            return cell(theirs)

        monkeypatch.setattr(promotion, "champions", champions)
        evidence = SimpleNamespace()
        return promotion.promote(SimpleNamespace(), recipe, tracker, version, evidence, "ada", "new data")

    return judge


def standing(tracker) -> dict[str, int]:
    with tracker.connected() as client:
        return aliases(client, NAME)


def right(share: float, n: int = 1000) -> np.ndarray:
    """Scores of `n` samples, the first `share` of them right."""
    return (np.arange(n) < share * n).astype(float)


def test_the_first_is_promoted_a_better_one_too_and_a_worse_one_is_not(tracker, judge) -> None:
    policy = recipe(worse_by=0.01)
    assert judge(policy, 0.5).why == "promoted: the first version"
    better = judge(policy, right(0.85), right(0.80))
    assert better.promoted and "difference +0.0500 [" in better.why and "new data" in history(tracker, NAME)[-1].why
    worse = judge(policy, right(0.75), right(0.85))
    assert not worse.promoted and standing(tracker) == {"champion": 2, "previous": 1, "challenger": 3}
    last = history(tracker, NAME)[-1]
    assert (last.alias, last.version, last.who) == ("challenger", 3, "ada") and last.why.startswith("not promoted")


def test_equal_within_the_margin_is_promoted_and_uncertain_is_not(judge) -> None:
    judge(recipe(), 0.5)
    assert judge(recipe(worse_by=0.02), right(0.8), right(0.8)).promoted
    assert not judge(recipe(worse_by=0.0), right(0.8), right(0.8) * 0 + np.roll(right(0.8), 100)).promoted
    # as good on 40 samples says little: the interval reaches further down than is allowed
    few = judge(recipe(worse_by=0.02), right(0.8, 40), np.roll(right(0.8, 40), 8))
    assert not few.promoted and "-0.02 is allowed" in few.why


def test_without_scores_of_samples_values_are_compared(judge) -> None:
    judge(recipe(), 0.5)
    assert judge(recipe(worse_by=0.01), 0.795, 0.80).promoted
    assert not judge(recipe(worse_by=0.01), 0.785, 0.80).promoted


def test_without_labels_a_share_of_the_champions_value_is_asked_for(judge) -> None:
    policy = recipe(metric="features/rankme", minimum=10, worse_by=0.1)
    judge(policy, 80)
    assert judge(policy, 75, 80).promoted and not judge(policy, 70, 80).promoted


def test_a_policy_may_ask_for_approval(tracker, judge) -> None:
    policy = recipe(approval="manual")
    first = judge(policy, 0.5)
    assert not first.promoted and "ssl-pipeline promote digits_simclr --version 1" in first.why
    promote(tracker, NAME, 1, "looked at")
    second = judge(policy, right(0.9), right(0.8))
    assert not second.promoted and "waits for approval" in second.why
    assert standing(tracker) == {"champion": 1, "challenger": 2}


def test_a_rollback_while_a_version_is_judged_stands_and_the_judgement_is_made_again(tracker, judge) -> None:
    judge(recipe(), 0.5)
    judge(recipe(), right(0.9), right(0.8))
    asked: list[int] = []

    def rolled_back() -> None:
        if not asked:
            rollback(tracker, NAME, "slow")
        asked.append(standing(tracker)["champion"])

    third = judge(recipe(), right(0.95), right(0.9), rolled_back)
    assert asked == [1, 1] and third.promoted  # compared once more, with the champion that it has become
    assert standing(tracker) == {"champion": 3, "previous": 1}
    assert [(m.version, m.back) for m in history(tracker, NAME) if m.alias == "champion"] == [
        (1, False), (2, False), (1, True), (3, False),
    ]  # fmt: skip


def test_what_was_taken_back_is_not_promoted_again_by_itself(tracker, judge) -> None:
    judge(recipe(), 0.5)
    judge(recipe(), right(0.9), right(0.8))
    rollback(tracker, NAME, "slow", "bob")
    found = promotion.decide(SimpleNamespace(), recipe(), tracker, 2, SimpleNamespace())
    assert not found.promoted and "bob took version 2 back (slow)" in found.why
