"""Aliases: what serves, what served, and the way back."""

from __future__ import annotations

import threading

import pytest

from ssl_pipeline.part import PipelineError
from ssl_pipeline.tracking import Changed, aliases, challenge, history, promote, register, rollback, taken_back

NAME = "digits_simclr"


@pytest.fixture
def versions(tracker, encoder) -> list[int]:
    """Four of them."""
    run_id = tracker.run("digits", "simclr", "k1")
    tags = {"data_digest": "0" * 32 + ".dir"}
    return [register(tracker, run_id, NAME, f"k{i}", encoder, [], tags, "") for i in range(1, 5)]


def standing(tracker) -> dict[str, int]:
    with tracker.connected() as client:
        return aliases(client, NAME)


def test_promotions_and_rollbacks_are_a_stack_and_every_move_is_kept(tracker, versions) -> None:
    challenge(tracker, NAME, 4, "new")
    promote(tracker, NAME, 1, "the first", "ada")
    promote(tracker, NAME, 2, "better")
    promote(tracker, NAME, 2, "again")  # nothing new to record
    promote(tracker, NAME, 4, "best")
    assert standing(tracker) == {"champion": 4, "previous": 2}
    assert rollback(tracker, NAME, "slow") == 2
    assert standing(tracker) == {"champion": 2, "previous": 1}
    assert rollback(tracker, NAME, "slower") == 1  # and not back to 4
    assert standing(tracker) == {"champion": 1}
    with pytest.raises(PipelineError, match=r"no champion reigned before version 1.*\(2, 3, 4\)"):
        rollback(tracker, NAME, "")
    assert {v: move.why for v, move in taken_back(tracker, NAME).items()} == {4: "slow", 2: "slower"}
    promote(tracker, NAME, 4, "it was the network")
    assert set(taken_back(tracker, NAME)) == {2}
    moves = history(tracker, NAME)
    assert [(m.alias, m.before, m.version, m.back) for m in moves] == [
        ("challenger", None, 4, False), ("champion", None, 1, False), ("champion", 1, 2, False), ("champion", 2, 4, False),
        ("champion", 4, 2, True), ("champion", 2, 1, True), ("champion", 1, 4, False),
    ]  # fmt: skip
    assert (moves[1].who, moves[1].why, moves[1].data) == ("ada", "the first", "0" * 32 + ".dir")
    assert moves[2].who and moves[2].run and moves[1].when < moves[2].when


def test_a_rollback_to_a_version_that_never_reigned(tracker, versions) -> None:
    promote(tracker, NAME, 1, "")
    promote(tracker, NAME, 2, "")
    assert rollback(tracker, NAME, "known good", to=3) == 3
    assert standing(tracker) == {"champion": 3, "previous": 1}


def test_what_was_moved_by_hand_is_told_and_can_be_taken_back(tracker, versions) -> None:
    promote(tracker, NAME, 1, "the first")
    with tracker.connected() as client:
        client.set_registered_model_alias(NAME, "champion", "3")
    assert (history(tracker, NAME)[-1].version, history(tracker, NAME)[-1].who) == (3, "unknown")
    promote(tracker, NAME, 4, "better than what nobody knows")
    assert [m.version for m in history(tracker, NAME)] == [1, 3, 4]
    assert standing(tracker)["previous"] == 3 == rollback(tracker, NAME, "worse, after all")
    assert rollback(tracker, NAME, "nobody knows what this is") == 1


def test_a_promotion_does_not_overrule_what_happened_meanwhile(tracker, versions) -> None:
    promote(tracker, NAME, 1, "")
    promote(tracker, NAME, 2, "")
    rollback(tracker, NAME, "while version 3 was compared with version 2")
    with pytest.raises(Changed):
        promote(tracker, NAME, 3, "better than 2", expected=2)
    assert standing(tracker)["champion"] == 1
    promote(tracker, NAME, 3, "better than 1", expected=1)
    assert standing(tracker) == {"champion": 3, "previous": 1}


def test_at_once_nothing_is_lost(new_tracker, tracker, versions) -> None:
    def work(version: int) -> None:
        promote(new_tracker(), NAME, version, f"number {version}")

    threads = [threading.Thread(target=work, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moves = history(tracker, NAME)
    assert sorted(m.version for m in moves) == versions
    assert [m.before for m in moves] == [None, *(m.version for m in moves[:-1])]
    assert standing(tracker) == {"champion": moves[-1].version, "previous": moves[-2].version}


def test_what_there_is_not(tracker, versions) -> None:
    with pytest.raises(PipelineError, match="no version 7: choose one of 1, 2, 3, 4"):
        promote(tracker, NAME, 7, "")
    with pytest.raises(PipelineError, match="has no champion"):
        rollback(tracker, NAME, "")
    with pytest.raises(PipelineError, match="'zebra' is not registered"):
        history(tracker, "zebra")
