"""Killed at any point, or run at once from several processes, a commit leaves what the next one completes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ssl_pipeline.versioning import commit, digest, pinned, restore

Tree = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def add_remote(root: Path, path: Path) -> None:
    config = root / ".dvc" / "config"
    text = config.read_text().replace("[core]\n", "[core]\n    remote = away\n")
    config.write_text(f"{text}['remote \"away\"']\n    url = {path}\n")


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a fork (DVC takes a second to import, this way once for all) and returns its pid."""
    import dvc.repo  # noqa: F401

    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:  # the child must not go on as a second pytest
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def at_once(work: Callable[[int], None]) -> None:
    """Runs work(0) to work(3) in four processes that start together."""
    wait_here, starting_gun = os.pipe()

    def run(number: int) -> None:
        os.close(starting_gun)
        os.read(wait_here, 1)  # ends when the parent closes its end
        work(number)

    children = [in_child(partial(run, number)) for number in range(4)]
    os.close(starting_gun)
    os.close(wait_here)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]


def killed_at(root: Path, event_number: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a child that is killed (SIGKILL) just before its n-th access to a file below `root`; says whether
    it was, or had fewer."""

    def run() -> None:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            touches = event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")
            if touches and str(arguments[0]).startswith(str(root)):
                seen += 1
                if seen == event_number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()

    _, status = os.waitpid(in_child(run), 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_killed_anywhere_then_committed_again(tmp_path: Path, tree: Tree) -> None:
    one, two, other = tree("one"), tree("two"), tree("other")
    (before := tmp_path / "before").mkdir()
    commit(before, "letters", other)
    commit(before, "digits", one)
    add_remote(before, Path("../remote"))  # seen from .dvc/: each copy of the project has its own
    kills = 0
    for event_number in range(1, 400, 3):
        root = shutil.copytree(before, tmp_path / f"project{event_number}")
        killed = killed_at(root, event_number, partial(commit, root, "digits", two))
        kills += killed
        assert pinned(root, "letters") == digest(other)
        assert pinned(root, "digits") in (digest(one), digest(two))
        commit(root, "digits", two)
        assert pinned(root, "digits") == digest(two)
        assert contents(root / "data" / "digits") == contents(two)
        assert {p.name for p in (root / "data").iterdir()} - {".gitignore"} == {"digits", "letters"}
        if not killed:
            break
    assert not killed
    assert kills > 20
    for folder, name in ((one, "digits"), (two, "digits"), (other, "letters")):
        restore(root, name, digest(folder), tmp_path / f"back-{folder.name}")
        assert contents(tmp_path / f"back-{folder.name}") == contents(folder)


def test_killed_anywhere_in_the_first_commit_of_all(tmp_path: Path, tree: Tree) -> None:
    folder, killed = tree(), True
    for event_number in range(1, 400, 3):
        root = tmp_path / f"project{event_number}"
        root.mkdir()
        killed = killed_at(root, event_number, partial(commit, root, "digits", folder))
        commit(root, "digits", folder)
        assert pinned(root, "digits") == digest(folder)
        restore(root, "digits", digest(folder), root / "back")
        assert contents(root / "back") == contents(folder)
        if not killed:
            break
    assert not killed


def test_killed_while_restoring(tmp_path: Path, tree: Tree) -> None:
    (root := tmp_path / "project").mkdir()
    commit(root, "digits", folder := tree())
    add_remote(root, tmp_path / "remote")
    commit(root, "digits", folder)
    killed, kills = True, 0
    for event_number in range(1, 400, 2):
        shutil.rmtree(root / ".dvc" / "cache")
        into = root / f"into{event_number}" / "back"
        killed = killed_at(root, event_number, partial(restore, root, "digits", digest(folder), into))
        kills += killed
        assert not into.exists() or contents(into) == contents(folder)
        restore(root, "digits", digest(folder), root / f"again{event_number}")
        assert contents(root / f"again{event_number}") == contents(folder)
        if not killed:
            break
    assert not killed
    assert kills > 10


def test_two_datasets_from_four_processes(root: Path, tree: Tree) -> None:
    trees = {"digits": tree("one"), "letters": tree("two")}
    names = [*trees, *trees]
    at_once(lambda number: commit(root, names[number], trees[names[number]]))
    ignored = (root / ".dvc" / ".gitignore").read_text().split() if (root / ".git").exists() else []
    assert len(ignored) == len(set(ignored))
    for name, folder in trees.items():
        assert pinned(root, name) == digest(folder)
        assert contents(root / "data" / name) == contents(folder)
        restore(root, name, digest(folder), root / f"back-{name}")


def test_four_processes_restore_what_the_cache_lacks(tmp_path: Path, tree: Tree) -> None:
    (root := tmp_path / "project").mkdir()
    commit(root, "digits", folder := tree())
    add_remote(root, tmp_path / "remote")
    commit(root, "digits", folder)
    shutil.rmtree(root / ".dvc" / "cache")
    at_once(lambda number: restore(root, "digits", digest(folder), tmp_path / f"back{number}"))
    assert all(contents(tmp_path / f"back{i}") == contents(folder) for i in range(4))
