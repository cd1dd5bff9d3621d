"""Which derived files may go, and their going.

What stays: all that a recipe or dataset uses now, all that a registered version was made from, all that somebody works on.
What may go, once nobody has used it for some days: other finished stages, the checkpoints of trainings given up, lock files
that nobody holds, logs of servers that ended. DVC's cache, `data/`, MLflow and Dagster's database are not looked at: a dataset
version that was cleaned away here comes back from DVC, and any other stage is computed again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock, Timeout

from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker
from ssl_pipeline.store import KEY, Store, explain_disk_errors, size

if TYPE_CHECKING:
    from rich.table import Table

DAY = 24 * 3600


@dataclass(frozen=True)
class Leftover:
    """A file or folder of the store that may go."""

    path: Path
    what: str
    bytes: int
    days: float
    """Since it was last used or written."""
    why: str
    locks: tuple[Path, ...] = ()
    """Who holds one of them is at work on it."""
    dated: float = 0.0
    """When that was, in seconds since 1970."""


def leftovers(project: Project, days: float) -> list[Leftover]:
    """All that nobody has used for so many days and that may go, the largest first.

    While a stage is being computed, no finished one is among them: what the run reads need not be anyone's current yet.
    Raises PipelineError where it cannot be known what registered versions were made from.
    """
    store = project.store
    old = [*unfinished(store), *logs(store)]
    if not at_work(store):
        old += finished(project)
    found = [one for one in old if one.days >= days] + list(trash(store))
    return sorted(found, key=lambda one: (-one.bytes, str(one.path)))


def remove(store: Store, found: Iterable[Leftover]) -> Iterator[Leftover]:
    """Deletes what nobody has taken up again since, and tells what. By a rename out of sight first: a clean that is killed
    leaves nothing half under a name that a stage is looked for by."""
    with explain_disk_errors(store.root), store.lock("clean"):
        for one in found:
            with claimed(one.locks) as free:
                record = one.path / "stage.json"
                used_since = record.exists() and record.stat().st_mtime > one.dated
                if not free or used_since or one.path.name in current_keys(store):
                    continue
                (store.root / "trash").mkdir(exist_ok=True)
                gone = Path(tempfile.mkdtemp(prefix=f"{one.path.parent.name}-", dir=store.root / "trash"))
                try:
                    one.path.rename(gone / one.path.name)
                except FileNotFoundError:
                    gone.rmdir()
                    continue
            shutil.rmtree(gone)
            yield one


def finished(project: Project) -> Iterator[Leftover]:
    """Stages that no recipe or dataset uses, and that nothing in use or registered was made from."""
    store = project.store
    records = read_records(store)
    kept = reached([*current_keys(store), *registered(project, records)], records)
    for key, (path, record) in records.items():
        if key not in kept:
            lock = store.root / "locks" / f"{record['stage']}-{key}.lock"
            why = "no recipe uses it now, and no registered version was made from it"
            yield leftover(path, record["stage"], path / "stage.json", why, lock)


def unfinished(store: Store) -> Iterator[Leftover]:
    """What interrupted stages left; a training would go on from there."""
    for path in store.root.glob("*/*.partial"):
        lock = store.root / "locks" / f"{path.parent.name}-{path.stem}.lock"
        newest = max([path, *path.rglob("*")], key=lambda file: file.lstat().st_mtime)
        why = "interrupted and not gone on with"
        yield leftover(path, f"unfinished {path.parent.name}", newest, why, lock, Path(f"{path}.writer"))


def logs(store: Store) -> Iterator[Leftover]:
    if files := sorted((store.root / "logs").glob("*.log")):
        opened = {file.path for process in psutil.process_iter() for file in files_of(process)}
        for path in files:
            if str(path.resolve()) not in opened:
                yield leftover(path, "log", path, "of a server that ended")


def trash(store: Store) -> Iterator[Leftover]:
    for path in (store.root / "trash").glob("*"):
        yield leftover(path, "trash", path, "left by a clean that was killed")


def reached(start: Iterable[str], records: dict[str, Any]) -> set[str]:
    """The keys of all stages that these were made from, themselves included. A dataset is named by its digest: every stage
    that holds that version counts."""
    by_name: dict[str, list[str]] = {}
    for key, (_, record) in records.items():
        for name in {key, str(record["summary"].get("digest", key))}:
            by_name.setdefault(name, []).append(key)
    waiting, seen = [key for name in start for key in by_name.get(name, [])], set[str]()
    while waiting:
        if (key := waiting.pop()) not in seen:
            seen.add(key)
            waiting += [other for name in names_in(records[key][1]) for other in by_name.get(name, [])]
    return seen


def names_in(record: dict[str, Any]) -> set[str]:
    """Keys and digests of what a stage was made from. Whatever else stands there, such as a source's fingerprint, is the name
    of no stage."""
    summary = record["summary"]
    said = [*record["inputs"].values(), *summary.get("made_from", {}).values(), summary.get("pack", "")]
    return {name for value in said for name in str(value).split(",")}


def registered(project: Project, records: dict[str, Any]) -> set[str]:
    """The keys of all registrations, and of the evaluations that MLflow's versions name."""
    keys = {key for key, (_, record) in records.items() if record["stage"] == "registered_model"}
    if project.has_tracking:
        from ssl_pipeline import tracking

        for version in tracking.versions(open_tracker(project)):
            keys |= {version.tags.get(tag, "") for tag in ("content_key", "evaluation")}
    return keys


def current_keys(store: Store) -> set[str]:
    pointers = (store.root / "current").glob("*/*.json")
    return {json.loads(pointer.read_text())["key"] for pointer in pointers if not pointer.name.startswith(".")}


def read_records(store: Store) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every finished stage's folder and record, by key. Raises PipelineError for one that cannot be read: what it was made
    from would go."""
    found = {}
    for file in store.root.glob("*/*/stage.json"):
        if KEY.fullmatch(file.parent.name):
            try:
                found[file.parent.name] = (file.parent, json.loads(file.read_text()))
            except (OSError, ValueError) as error:
                raise PipelineError(
                    f"{file}: cannot be read ({error}), so what it was made from is not known: delete its folder, which is "
                    "then computed again"
                ) from error
    return found


def at_work(store: Store) -> bool:
    """Whether any stage of the store is being computed."""
    with claimed((store.root / "locks").glob("*.lock")) as free:
        return not free


@contextmanager
def claimed(locks: Iterable[Path]) -> Iterator[bool]:
    """Whether nobody else holds one of these; nobody else can take them meanwhile."""
    with ExitStack() as stack:
        try:
            for path in locks:
                if path.exists():
                    stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            stack.close()
            yield False
        else:
            yield True


def leftover(path: Path, what: str, dated: Path, why: str, *locks: Path) -> Leftover:
    when = dated.lstat().st_mtime
    return Leftover(path, what, size(path), max(0.0, time.time() - when) / DAY, why, locks, when)


def files_of(process: psutil.Process) -> list[Any]:
    try:
        return process.open_files()
    except (psutil.Error, OSError):
        return []


def table(found: list[Leftover], root: Path) -> Table:
    """What, how large, how old and why, as a person reads it."""
    from rich.filesize import decimal
    from rich.table import Table

    shown = Table(title=f"what may go from {root}", title_justify="left")
    shown.add_column("what", overflow="fold")
    shown.add_column("size", justify="right", no_wrap=True)
    shown.add_column("age", justify="right", no_wrap=True)
    shown.add_column("why it may go", overflow="fold")
    for one in found:
        shown.add_row(str(one.path.relative_to(root)), decimal(one.bytes), f"{one.days:.0f} days", one.why)
    return shown
