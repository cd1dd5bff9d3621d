"""Versions of datasets in DVC: commit one, restore one.

Objects go into DVC's cache and remote in DVC's own layout, so that `dvc status`, `pull`, `push` and `checkout` work on
them. DVC trusts what it finds there: here every file's md5 is checked each time it is copied out.

Nothing is hard-linked. `store/`, `data/` and the cache hold files of their own (sharing blocks where the file system
can clone, as btrfs, XFS and APFS do), because with hard links one edit in place under `data/`, which root may do even
to a read-only file, would change the cache's record of that version or the stage that made it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ssl_pipeline.part import PipelineError
from ssl_pipeline.versioning import pins
from ssl_pipeline.versioning.tree import DIGEST, decode, digest_of, encode, listing, md5

if TYPE_CHECKING:
    from dvc.fs import FileSystem
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB


def commit(root: Path, name: str, tree: Path) -> None:
    """Makes `tree` the version of dataset `name` that the project uses: in DVC's cache, at `data/<name>`, in
    `data.dvc`, and in the default remote if one is configured. Sets DVC up in `root` the first time.

    Safe to repeat: a commit that was killed, or whose push failed, is completed by the next one.
    Raises PipelineError: symlinks in the tree, damaged cache, remote out of reach (the version is kept locally then).
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise PipelineError(f"dataset {name!r}: cannot be a folder's name: use letters, digits and underscores")
    root, what = root.resolve(), f"dataset {name!r}"
    with _explained(root, what):
        files = listing(tree)
        digest = digest_of(encode(files))
        size = sum((tree / path).stat().st_size for path in files)
        (root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".dvc" / "tmp" / "ssl_pipeline.lock"):
            _set_up(root)
            with _open(root) as repo:
                with repo.lock:  # a `dvc gc` between caching and pinning would drop the version
                    paths = {checksum: str(tree / path) for path, checksum in files.items()}
                    if not _copy(paths, repo.fs, repo.cache.local):
                        raise PipelineError(f"{what}: {tree} changed while it was versioned: build the dataset again")
                    repo.cache.local.add_bytes(digest, encode(files))
                    _replace(root / "data" / name, digest, files, repo.cache.local, what)
                    pins.pin(root, name, digest, size, len(files))
                    with repo.scm_context() as git:
                        git.ignore(str(root / "data" / name))
                        git.track_file([str(root / path) for path in (pins.FILE, ".dvc/config", ".dvc/.gitignore")])
                _push(repo, what, digest, files)


def restore(root: Path, name: str, digest: str, into: Path) -> None:
    """Fills the folder `into` with version `digest` of dataset `name`, completely or not at all, from DVC's cache or,
    where that lacks it, the default remote.

    Raises PipelineError: unknown version, an object that is damaged or lost, file names that lead out of the folder.
    """
    root, what = root.resolve(), f"dataset {name!r} version {digest}"
    if not DIGEST.fullmatch(digest):
        raise PipelineError(f"{what}: is no digest: it must be 32 hexadecimal digits and '.dir'")
    if not (root / ".dvc" / "config").is_file():
        raise PipelineError(f"{what}: {root} has no DVC repository: build the dataset from its source first")
    if into.exists() and not (into.is_dir() and not any(into.iterdir())):
        raise PipelineError(f"{what}: {into} is not empty: choose another folder")
    with _explained(root, what), _open(root) as repo:
        cache, object_path = repo.cache.local, Path(repo.cache.local.oid_to_path(digest))
        with repo.lock:  # two processes that copy one object into the cache would truncate it under each other
            if not _fetch(repo, {digest}):
                known = ", ".join(pins.history(root, name)) or "none"
                raise PipelineError(
                    f"{what}: neither the cache nor a remote has it undamaged: restore one that {pins.FILE} has named "
                    f"({known}) or set up the remote it was pushed to"
                )
            # checked before its files are fetched: their md5s become paths in the cache
            files = decode(object_path.read_bytes(), digest, f"{what}: {object_path}")
            if not _fetch(repo, set(files.values())):
                raise PipelineError(
                    f"{what}: neither the cache nor a remote has all of its files undamaged: set up the remote it was "
                    "pushed to or build the dataset again from its source"
                )
        into.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=into.parent) as unfinished:
            fresh = Path(unfinished) / into.name
            _fill(fresh, files, cache, what)
            fresh.rename(into)


def holds(root: Path, digest: str) -> bool:
    """Whether DVC's cache has the version of this digest."""
    if not (root / ".dvc" / "config").exists():
        return False
    with _explained(root, digest), _open(root) as repo:
        return repo.cache.local.exists(digest)


def _set_up(root: Path) -> None:
    """What `dvc init` does, but complete or not there at all; the rest of `.dvc/` DVC makes when it opens it."""
    config = root / ".dvc" / "config"
    if config.exists():
        return
    fresh = config.with_name("config.new")
    fresh.write_text(f"[core]\n    analytics = false\n    {'autostage' if pins.is_in_git(root) else 'no_scm'} = true\n")
    fresh.replace(config)


@contextmanager
def _explained(root: Path, what: str) -> Iterator[None]:
    """Turns what the disk, DVC, git or a remote's library raises into one line."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # each of these libraries has exceptions of its own
        raise PipelineError(
            f"{what}: versioning in {root} failed ({_one_line(error)}): remove the cause and run again; "
            "versions that are there already are untouched"
        ) from error


def _open(root: Path) -> Repo:
    from dvc.repo import Repo  # slow to import

    return Repo(str(root), _wait_for_lock=True)


def _copy(paths: dict[str, str], source: FileSystem, target: HashFileDB) -> bool:
    """Copies objects (md5: path on file system `source`) into a cache or remote that lacks them; says whether all are
    there afterwards. What arrives on a local disk is hashed there, as DVC would trust half a file for ever."""
    if paths:
        target.add(list(paths.values()), source, list(paths), verify=target.fs.protocol == "local")
    return all(target.exists(checksum) for checksum in paths)


def _fetch(repo: Repo, checksums: set[str]) -> bool:
    """Brings what the cache lacks of these objects from the default remote; says whether all are there afterwards."""
    missing = sorted(checksums - set(repo.cache.local.oids_exist(checksums)))
    if not missing or not repo.config["core"].get("remote"):
        return not missing
    remote = repo.cloud.get_remote_odb(command="pull")
    try:
        return _copy({c: remote.oid_to_path(c) for c in missing}, remote.fs, repo.cache.local)
    except FileNotFoundError:
        return False


def _push(repo: Repo, what: str, digest: str, files: dict[str, str]) -> None:
    remote_name = repo.config["core"].get("remote")
    if not remote_name:
        return
    cache = repo.cache.local
    try:
        remote = repo.cloud.get_remote_odb(command="push")
        # the list of files goes last: a remote that has it has everything
        for checksums in (files.values(), [digest]):
            if not _copy({c: cache.oid_to_path(c) for c in checksums}, cache.fs, remote):
                raise OSError("an object did not arrive there undamaged")
    except Exception as error:  # each kind of remote has exceptions of its own
        raise PipelineError(
            f"{what}: {digest} is committed here, but pushing it to the DVC remote {remote_name!r} failed "
            f"({_one_line(error)}): when the remote is back, run `dvc push` or build the dataset again"
        ) from error


def _replace(folder: Path, digest: str, files: dict[str, str], cache: HashFileDB, what: str) -> None:
    """Makes `folder` the version whose files these are, unless it is already; sweeps up after a killed attempt."""
    data = folder.parent
    if data.is_symlink():
        raise PipelineError(
            f"{data}: is a symlink, which DVC does not follow: make it a folder; the cache can move: `dvc cache dir`"
        )
    data.mkdir(exist_ok=True)
    for leftover in [*data.glob(".*.new"), *data.glob(".*.old")]:
        _remove(leftover)
    if _is(folder, digest):
        return
    fresh, old = data / f".{folder.name}.new", data / f".{folder.name}.old"
    _fill(fresh, files, cache, what)
    if os.path.lexists(folder):
        folder.rename(old)
    fresh.rename(folder)
    if os.path.lexists(old):
        _remove(old)


def _is(folder: Path, digest: str) -> bool:
    try:
        return not folder.is_symlink() and folder.is_dir() and digest_of(encode(listing(folder))) == digest
    except PipelineError:  # something was put there that no version holds
        return False


def _fill(folder: Path, files: dict[str, str], cache: HashFileDB, what: str) -> None:
    from dvc_objects.fs.utils import copyfile

    folder.mkdir()
    for path, checksum in files.items():
        target, object_path = folder / path, cache.oid_to_path(checksum)
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(object_path, str(target))
        if md5(target) != checksum:
            raise PipelineError(
                f"{what}: the cache's {object_path} is damaged: delete that file and run again; "
                "it then comes from the remote or the source"
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
