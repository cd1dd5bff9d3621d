"""Which version serves, which did, and why: the aliases `champion`, `challenger` and `previous`, and the history of their moves.

MLflow's aliases have no history, so each move is a tag of the version that was moved to: who, when, why, from where. The alias is
the truth and moves first, in one write; what was moved by hand, or cut off before its tag was written, is told from where the
alias stands.

Going back is a stack: `previous` is where `rollback` would lead, and a version that was taken back is never led to again.
"""

from __future__ import annotations

import getpass
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ssl_pipeline.part import PipelineError
from ssl_pipeline.tracking import registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ssl_pipeline.tracking.registry import Version
    from ssl_pipeline.tracking.runs import Tracker

CHAMPION, CHALLENGER, PREVIOUS = ALIASES = ("champion", "challenger", "previous")
ANY = -1
TAG = "moved/"
"""Begins the name of the tag that holds a move."""


@dataclass(frozen=True)
class Move:
    """An alias came to stand on a version."""

    alias: str
    version: int
    when: str
    """ISO 8601, UTC."""
    who: str
    why: str
    before: int | None = None
    """The version on which it stood."""
    back: bool = False
    """By a rollback."""
    run: str = ""
    """MLflow's run of the version."""
    data: str = ""
    """DVC digest of the data that the version was trained on."""


class Changed(Exception):
    """The champion is another one than was expected."""


def promote(tracker: Tracker, name: str, version: int, why: str, who: str = "", expected: int | None = ANY) -> None:
    """Makes `version` the champion, and the one before it `previous`. Doing it again changes nothing.

    Raises PipelineError where there is no such version, and Changed where the champion is not the `expected` one any more.
    """
    with tracker.connected() as client, tracker.lock(f"model-{name}"):
        known = _known(tracker, name, version)
        standing = registry.aliases(client, name)
        if expected not in (ANY, standing.get(CHAMPION)):
            raise Changed(f"{name} version {standing.get(CHAMPION)}")
        if standing.get(CHAMPION) != version:
            reigns = stack(_moves(known, standing))
            if reigns:
                client.set_registered_model_alias(name, PREVIOUS, str(reigns[-1]))
            _move(client, name, known[version], CHAMPION, standing, who, why)
        if standing.get(CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def rollback(tracker: Tracker, name: str, why: str, who: str = "", to: int | None = None) -> int:
    """Makes the version that reigned before the champion's promotion, or version `to`, the champion again; returns it.

    Raises PipelineError where there is none.
    """
    with tracker.connected() as client, tracker.lock(f"model-{name}"):
        known = _known(tracker, name, to)
        standing = registry.aliases(client, name)
        reigns = stack(_moves(known, standing))
        if not reigns:
            raise PipelineError(f"model {name!r} has no champion: promote a version first")
        if to is None and len(reigns) < 2:
            others = ", ".join(str(v) for v in known if v != reigns[-1]) or "there is none yet"
            raise PipelineError(
                f"model {name!r}: no champion reigned before version {reigns[-1]}: name a version to go to ({others})"
            )
        version = reigns[-2] if to is None else to
        if standing.get(CHAMPION) != version:
            _move(client, name, known[version], CHAMPION, standing, who, why, back=True)
        left = popped(reigns, version)
        if len(left) > 1:
            client.set_registered_model_alias(name, PREVIOUS, str(left[-2]))
        elif PREVIOUS in standing:
            client.delete_registered_model_alias(name, PREVIOUS)
        return version


def challenge(tracker: Tracker, name: str, version: int, why: str, who: str = "") -> None:
    """Makes `version` the challenger, unless there is a newer one."""
    with tracker.connected() as client, tracker.lock(f"model-{name}"):
        known = _known(tracker, name, version)
        standing = registry.aliases(client, name)
        if standing.get(CHALLENGER) != version and version == max(known):
            _move(client, name, known[version], CHALLENGER, standing, who, why)


def history(tracker: Tracker, name: str) -> list[Move]:
    """Every move of every alias of a model, the oldest first. Raises PipelineError where there is no such model."""
    with tracker.connected() as client:
        return _moves(_known(tracker, name), registry.aliases(client, name))


def taken_back(tracker: Tracker, name: str) -> dict[int, Move]:
    """Versions that a rollback took away from production and nobody promoted since, each with that rollback."""
    gone: dict[int, Move] = {}
    for move in history(tracker, name):
        if move.alias == CHAMPION:
            gone.pop(move.version, None)
            if move.back and move.before is not None:
                gone[move.before] = move
    return gone


def stack(moves: Sequence[Move]) -> list[int]:
    """The versions to which rollbacks would lead one after the other, the champion last."""
    reigns: list[int] = []
    for move in moves:
        if move.alias == CHAMPION:
            reigns = (
                popped(reigns, move.version) if move.back else [v for v in reigns if v != move.version] + [move.version]
            )
    return reigns


def popped(reigns: list[int], version: int) -> list[int]:
    """What is left of the stack once everything above `version` was taken back."""
    return reigns[: reigns.index(version) + 1] if version in reigns else [*reigns[:-1], version]


def _known(tracker: Tracker, name: str, version: int | None = None) -> dict[int, Version]:
    known = {v.version: v for v in registry.versions(tracker, name)}
    if not known:
        raise PipelineError(f"model {name!r} is not registered: `ssl-pipeline status` lists the models")
    if version is not None and version not in known:
        raise PipelineError(f"model {name!r} has no version {version}: choose one of {', '.join(map(str, known))}")
    return known


def _moves(known: dict[int, Version], standing: dict[str, int]) -> list[Move]:
    """As the tags tell, and one more wherever an alias stood elsewhere before the next move, or stands elsewhere now."""
    tags = [value for version in known.values() for key, value in version.tags.items() if key.startswith(TAG)]
    moves = sorted((Move(**json.loads(tag)) for tag in tags), key=lambda move: move.when)
    told: list[Move] = []
    last: dict[str, int] = {}

    def arrive(alias: str, version: int | None, when: str) -> None:
        if version in known and last.get(alias) != version:
            unknown = "moved by other means than ssl_pipeline, or its record was cut off"
            told.append(_of(known[version], alias, last.get(alias), "unknown", unknown, when))
            last[alias] = version

    for move in moves:
        if move.alias == CHAMPION:
            arrive(CHAMPION, move.before, f"before {move.when}")
        told.append(move)
        last[move.alias] = move.version
    for alias in (CHALLENGER, CHAMPION):
        arrive(alias, standing.get(alias), "unknown")
    return told


def _move(
    client: MlflowClient,
    name: str,
    version: Version,
    alias: str,
    standing: dict[str, int],
    who: str,
    why: str,
    back: bool = False,
) -> None:
    client.set_registered_model_alias(name, alias, str(version.version))
    now = datetime.now(UTC)
    move = _of(version, alias, standing.get(alias), who or getpass.getuser(), why, now.isoformat(), back)
    tag = f"{TAG}{now:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:4]}"
    client.set_model_version_tag(name, str(version.version), tag, json.dumps(asdict(move)))


def _of(version: Version, alias: str, before: int | None, who: str, why: str, when: str, back: bool = False) -> Move:
    return Move(
        alias, version.version, when, who, why[:1000], before, back, version.run_id, version.tags.get("data_digest", "")
    )
