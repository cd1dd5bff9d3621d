"""Stage folders by content key: lock, atomic commit, current pointer, reuse.

    store/<stage>/<key>/stage.json     what made it, its summary; beside it the stage's files
    store/<stage>/<key>.partial/       work in progress; what is killed here may be resumed
    store/current/<owner>/<stage>.json which key an owner (a recipe or a dataset) uses now

A key is a hash of the stage's inputs' keys, its slice of the recipe and its code version, so the same question is never
answered twice. A folder under its final name is complete: it got there by one rename, after an fsync.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssl_pipeline import disk
from ssl_pipeline.part import PipelineError

KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Stage:
    """A finished stage: where its files are and what it says of itself."""

    name: str
    key: str
    path: Path
    summary: dict[str, Any]
    reused: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    """The slice of the recipe that made it."""


class Store:
    """All derived files of a project. Safe for several processes on one machine; a lock dies with its process."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def key(self, stage: str, config: dict[str, Any], inputs: dict[str, str], code_version: str) -> str:
        """The content key: 16 hexadecimal digits of SHA-256 over what decides the stage's result."""
        decided = {"stage": stage, "config": config, "inputs": inputs, "code_version": code_version}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]

    def build(
        self,
        stage: str,
        config: dict[str, Any],
        inputs: dict[str, str],
        code_version: str,
        write: Callable[[Path], dict[str, Any]],
        *,
        resumable: bool = False,
        on_wait: Callable[[str], None] = print,
    ) -> Stage:
        """Returns the stage under its key, made by `write(folder)` unless it is there already.

        `write` fills a folder that nobody else sees and returns a summary (JSON). Another process at the same key waits
        and then reuses. With `resumable`, the folder of an interrupted attempt is handed to `write` again as it was left.

        Raises PipelineError where the disk is full, or too full to start (`disk.py`), or not writable; finished stages stay
        as they were.
        """
        key = self.key(stage, config, inputs, code_version)
        if done := self.get(stage, key):
            return used(done)
        final, partial = self.root / stage / key, self.root / stage / f"{key}.partial"
        with explain_disk_errors(self.root), self.lock(f"{stage}-{key}", on_wait):
            if done := self.get(stage, key):  # made by the process we waited for
                return used(done)
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            disk.refuse_full(self.root, stage, self.largest(inputs))
            partial.mkdir(parents=True, exist_ok=True)
            started = time.time()
            try:
                # as it will be read back: what JSON cannot hold fails here, in the first run
                summary = json.loads(json.dumps(write(partial)))
            except BaseException:
                if not resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            record = {
                "stage": stage, "key": key, "config": config, "inputs": inputs, "code_version": code_version,
                "summary": summary, "started": started, "seconds": round(time.time() - started, 3), "bytes": size(partial),
            }  # fmt: skip
            for path in partial.rglob("*"):
                fsync(path)
            write_json(partial / "stage.json", record)
            partial.rename(final)
            fsync(final.parent)
        return Stage(stage, key, final, summary, config=config)

    def get(self, stage: str, key: str) -> Stage | None:
        """The finished stage under this key, or None."""
        path = self.root / stage / key
        try:
            record = json.loads((path / "stage.json").read_text())
        except FileNotFoundError:
            return None
        return Stage(stage, key, path, record["summary"], reused=True, config=record["config"])

    def largest(self, inputs: dict[str, str]) -> int:
        """Bytes of the largest stage among these; what is no stage's key or digest does not count."""
        names = {name for value in inputs.values() for name in value.split(",")}
        found = [one.path for one in self.finished("dataset") if one.summary.get("digest") in names]
        found += [
            file.parent for name in names if KEY.fullmatch(name) for file in self.root.glob(f"*/{name}/stage.json")
        ]
        return max((self.bytes_of(path) for path in found), default=0)

    def bytes_of(self, path: Path) -> int:
        """Of a finished stage's files, as its record says."""
        record = json.loads((path / "stage.json").read_text())
        return int(record.get("bytes") or size(path))

    def finished(self, stage: str) -> Iterator[Stage]:
        """All finished folders of a stage."""
        for record in sorted((self.root / stage).glob("*/stage.json")):
            if found := self.get(stage, record.parent.name):
                yield found

    def set_current(self, owner: str, stage: Stage) -> None:
        """Makes `stage` the one that `owner` (a recipe's or a dataset's name) uses now; atomic."""
        with explain_disk_errors(self.root):
            pointer = self.root / "current" / owner / f"{stage.name}.json"
            pointer.parent.mkdir(parents=True, exist_ok=True)
            write_json(pointer, {"key": stage.key})

    def current(self, owner: str, stage: str) -> Stage | None:
        """The stage that `owner` uses now, or None where it has none (or it was deleted)."""
        pointer = self.root / "current" / owner / f"{stage}.json"
        if not pointer.is_file():
            return None
        return self.get(stage, json.loads(pointer.read_text())["key"])

    @contextmanager
    def lock(self, name: str, on_wait: Callable[[str], None] = print) -> Iterator[None]:
        """One process at a time under this name; says so when it has to wait. The kernel frees it when a process dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait(f"{name}: another process is at work on this; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def used(stage: Stage) -> Stage:
    """Dates the stage's record: `ssl-pipeline clean` counts the days since it was last used."""
    with suppress(OSError):
        os.utime(stage.path / "stage.json")
    return stage


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what goes away meanwhile does not count."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += file.lstat().st_size if not file.is_dir() else 0
    return total


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader, or a power cut, sees the old file or the new one, never half of one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(fresh, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    fsync(path.parent)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Sees a file's content, or a folder's entries, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_disk_errors(root: Path) -> Iterator[None]:
    """Turns 'no space left' and 'read-only' into one line that names the place and the cure."""
    try:
        yield
    except OSError as error:
        where = error.filename or root
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PipelineError(
                f"disk full while writing {where}: free space there or set SSL_PIPELINE_STORE to a larger disk; "
                "finished stages are untouched, run again to go on"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise PipelineError(
                f"cannot write {where}: {error.strerror}; make it writable or set SSL_PIPELINE_STORE to a folder that is"
            ) from error
        raise
