"""A folder as DVC counts it: the list of its files and their md5s, whose own md5 is the folder's digest.

The list is DVC's `.dir` object, byte for byte, so the digest needs neither DVC (slow to import) nor a repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ssl_pipeline.part import PipelineError

DIGEST = re.compile(r"[0-9a-f]{32}\.dir")
MD5 = re.compile(r"[0-9a-f]{32}")
LEFT_OUT_BY_DVC = {".dvc", ".git", ".hg", ".dvcignore"}


def digest(tree: Path) -> str:
    """`<md5>.dir`, the md5 of `tree` as DVC counts it: 36 characters. Empty folders don't count.

    Raises PipelineError for whatever DVC would follow, skip or fail to store: symlinks, devices, pipes, `.git`, `.dvc`.
    """
    return digest_of(encode(listing(tree)))


def listing(tree: Path) -> dict[str, str]:
    """The md5 of every file of `tree`, by relative path; raises PipelineError as `digest` does."""
    if not tree.is_dir():
        raise PipelineError(f"{tree}: is not a folder, so it has no version: build the dataset again")
    return {path.relative_to(tree).as_posix(): md5(path) for path in _files(tree)}


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                raise PipelineError(f"{path}: is a symlink, which a dataset must not hold: put the file itself there")
            if entry.name in LEFT_OUT_BY_DVC:
                raise PipelineError(f"{path}: DVC leaves this name out of a version: remove or rename it")
            if entry.is_dir(follow_symlinks=False):
                yield from _files(path)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise PipelineError(f"{path}: is neither a file nor a folder, a dataset cannot hold it: remove it")


def md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def encode(files: dict[str, str]) -> bytes:
    """The bytes of DVC's `.dir` object for these files."""
    return json.dumps([{"md5": files[path], "relpath": path} for path in sorted(files)]).encode()


def digest_of(encoded: bytes) -> str:
    return hashlib.md5(encoded, usedforsecurity=False).hexdigest() + ".dir"


def decode(encoded: bytes, expected: str, origin: str) -> dict[str, str]:
    """The files of a `.dir` object that may come from anywhere.

    Raises PipelineError, naming `origin`, where the bytes are not those of the `expected` digest, or where an entry
    would be written outside the folder or read from outside the cache.
    """
    if digest_of(encoded) != expected:
        raise PipelineError(f"{origin}: is damaged (its md5 is not {expected}): delete that file and try again")
    try:
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(encoded)}
        for path, checksum in files.items():
            if not MD5.fullmatch(checksum):
                raise ValueError(f"{checksum!r} is no md5")
            if "\0" in path or {"", ".", ".."} & set(path.split("/")):
                raise ValueError(f"{path!r} leads out of the folder")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PipelineError(
            f"{origin}: is no list of files that can be trusted ({error}): use another version"
        ) from error
    return files
