"""`data.dvc`: which version of each dataset the project uses.

One DVC file with one output a dataset, `data/<name>`, rather than one output for all of `data/`: a dataset's digest
then *is* what DVC records, pushes, pulls and checks out; and pinning one dataset needs no file of the others, which a
fresh clone doesn't have. The file is written here, not by DVC, because DVC writes it in place: killed in between, it
would leave half a file, without the pins of the other datasets.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import fsync

FILE = "data.dvc"


def pinned(root: Path, name: str, committed: bool = False) -> str | None:
    """The digest that `data.dvc` records for dataset `name` in the work tree, or with `committed` in git's HEAD;
    None where it records none, or there is no git.

    Raises PipelineError where `data.dvc` cannot be read.
    """
    text = _at(root, "HEAD") if committed else _in_work_tree(root)
    return _digests(text, root).get(name)


def history(root: Path, name: str, commits: int = 50) -> list[str]:
    """The digests of `name` that `data.dvc` records or recorded in its last commits, newest first."""
    revisions = (_git(root, "log", f"--max-count={commits}", "--format=%H", "--", FILE) or "").split()
    texts = [_in_work_tree(root), *(_at(root, revision) for revision in revisions)]
    found = [_digests(text, root).get(name) for text in texts]
    return list(dict.fromkeys(digest for digest in found if digest))


def pin(root: Path, name: str, digest: str, size: int, files: int) -> None:
    """Records `digest` for `name`; atomic; other datasets' pins stay. The same pins always make the same bytes."""
    before = _in_work_tree(root)
    record = _parse(before, root)
    path = f"data/{name}"
    outs = {out["path"]: out for out in record.get("outs") or []}
    if "data" in outs:
        raise PipelineError(
            f"{root / FILE}: pins all of data/ as one: run `dvc remove {FILE}`, datasets are pinned one by one"
        )
    outs[path] = {"md5": digest, "size": size, "nfiles": files, "hash": "md5", "path": path}
    text = yaml.safe_dump(record | {"outs": [outs[p] for p in sorted(outs)]}, sort_keys=False)
    if text == before:
        return
    fresh = root / f".{FILE}.new"
    with open(fresh, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(root / FILE)
    fsync(root)


def is_in_git(root: Path) -> bool:
    """Whether `root` is inside a git work tree that does not ignore it."""
    return _git(root, "check-ignore", "-q", FILE, expect=1) is not None


def _in_work_tree(root: Path) -> str | None:
    try:
        return (root / FILE).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(
            f"{root / FILE}: cannot be read ({error}): restore it with `git checkout {FILE}`"
        ) from error


def _at(root: Path, revision: str) -> str | None:
    return _git(root, "show", f"{revision}:./{FILE}")


def _git(root: Path, *arguments: str, expect: int = 0) -> str | None:
    """What git says, or None where it ends otherwise than expected: no git, no repository, no such file."""
    try:
        done = subprocess.run(["git", *arguments], check=False, cwd=root, capture_output=True, text=True)
    except (OSError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == expect else None


def _digests(text: str | None, root: Path) -> dict[str, str]:
    outs = _parse(text, root).get("outs") or []
    pinned_outs = [out for out in outs if out["path"].startswith("data/") and out.get("md5")]
    return {out["path"].removeprefix("data/"): str(out["md5"]) for out in pinned_outs}


def _parse(text: str | None, root: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        record = yaml.safe_load(text)
        if not isinstance(record, dict):
            raise TypeError("empty or no mapping")
        if not all(isinstance(out["path"], str) for out in record.get("outs") or []):
            raise ValueError("an output has no path")
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise PipelineError(
            f"{root / FILE}: is no DVC file ({' '.join(str(error).split())}): restore it with `git checkout {FILE}`"
        ) from error
    return record
