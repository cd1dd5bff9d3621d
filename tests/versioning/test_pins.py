from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_pipeline.part import PipelineError
from ssl_pipeline.versioning import commit, digest, pinned
from ssl_pipeline.versioning.pins import history, pin

Tree = Callable[..., Path]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


ONE, TWO = "1" * 32 + ".dir", "2" * 32 + ".dir"


def test_without_data_dvc_nothing_is_pinned(root: Path) -> None:
    assert pinned(root, "digits") is None
    assert pinned(root, "digits", committed=True) is None


def test_work_tree_and_head_differ_until_git_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    root = tmp_path / "below" / "the top"
    root.mkdir(parents=True)
    pin(root, "digits", ONE, 1, 1)
    assert (pinned(root, "digits"), pinned(root, "digits", committed=True)) == (ONE, None)
    git(root, "add", "data.dvc")
    git(root, "commit", "-qm", "one")
    pin(root, "digits", TWO, 1, 1)
    assert (pinned(root, "digits"), pinned(root, "digits", committed=True)) == (TWO, ONE)
    git(root, "commit", "-qam", "two")
    (root / "data.dvc").unlink()
    assert (pinned(root, "digits"), pinned(root, "digits", committed=True)) == (None, TWO)
    assert history(root, "digits") == [TWO, ONE]
    assert history(root, "other") == []


def test_pins_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for name, version, size, files in (("a", ONE, 5, 1), ("b", TWO, 6, 2)):
        pin(here, name, version, size, files)
    for name, version, size, files in (("b", ONE, 5, 1), ("b", TWO, 6, 2), ("a", ONE, 5, 1)):
        pin(there, name, version, size, files)
    assert (here / "data.dvc").read_bytes() == (there / "data.dvc").read_bytes()
    assert (pinned(there, "a"), pinned(there, "b")) == (ONE, TWO)
    before = (here / "data.dvc").stat().st_mtime_ns
    pin(here, "a", ONE, 5, 1)
    assert (here / "data.dvc").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "outs: [",
        "- a",
        "outs: [1]",
        "outs: 3",
        "outs: [{md5: x}]",
        "<<<<<<< HEAD\nouts:\n",
        "!!python/object:os.x {}",
    ],
)
def test_a_broken_data_dvc_is_never_overwritten(bare: Path, text: str) -> None:
    (bare / "data.dvc").write_text(text)
    for use in (lambda: pinned(bare, "digits"), lambda: pin(bare, "digits", ONE, 1, 1)):
        with pytest.raises(PipelineError, match=r"data\.dvc: is no DVC file .*git checkout"):
            use()
    assert (bare / "data.dvc").read_text() == text


def test_a_full_disk_leaves_the_old_pins(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pin(bare, "digits", ONE, 1, 1)
    before = (bare / "data.dvc").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pin(bare, "digits", TWO, 1, 1)
    assert (bare / "data.dvc").read_bytes() == before


def test_one_pin_for_all_of_data_is_refused(bare: Path, tree: Tree) -> None:
    from dvc.repo import Repo

    tree("theirs").rename(bare / "data")
    Repo.init(str(bare), no_scm=True)
    with Repo(str(bare)) as repo:
        repo.add(str(bare / "data"))
    assert pinned(bare, "digits") is None
    with pytest.raises(PipelineError, match=r"dvc remove data\.dvc"):
        commit(bare, "digits", tree("ours"))


def test_pins_of_others_and_their_keys_stay(bare: Path, tree: Tree) -> None:
    theirs = f"{{md5: {ONE}, hash: md5, path: data/other, desc: mine}}"
    (bare / "data.dvc").write_text(f"meta:\n  owner: me\nouts:\n- {theirs}\n")
    commit(bare, "digits", folder := tree())
    assert (pinned(bare, "digits"), pinned(bare, "other")) == (digest(folder), ONE)
    assert "owner: me" in (bare / "data.dvc").read_text()
    assert "desc: mine" in (bare / "data.dvc").read_text()
