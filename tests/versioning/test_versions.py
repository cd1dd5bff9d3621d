from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_pipeline.part import PipelineError
from ssl_pipeline.versioning import commit, digest, pinned, restore
from ssl_pipeline.versioning.tree import digest_of, encode, md5

Tree = Callable[..., Path]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cached(root: Path, oid: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]


def add_remote(root: Path, path: Path) -> None:
    config = root / ".dvc" / "config"
    text = config.read_text().replace("[core]\n", "[core]\n    remote = away\n")
    config.write_text(f"{text}['remote \"away\"']\n    url = {path}\n")


def test_commit_is_what_dvc_calls_clean(root: Path, tree: Tree) -> None:
    from dvc.repo import Repo

    commit(root, "digits", first := tree("one"))
    commit(root, "letters", second := tree("two"))
    assert contents(root / "data" / "digits") == contents(first)
    assert (pinned(root, "digits"), pinned(root, "letters")) == (digest(first), digest(second))
    before = (root / "data.dvc").read_bytes()
    with Repo(str(root)) as repo:
        assert repo.status() == {}
        assert not any(repo.data_status()[kind] for kind in ("not_in_cache", "uncommitted"))
        for name in ("digits", "letters"):
            repo.add(str(root / "data" / name))
    assert (root / "data.dvc").read_bytes() == before
    shutil.rmtree(root / "data" / "digits")
    with Repo(str(root)) as repo:
        repo.checkout()
    assert contents(root / "data" / "digits") == contents(first)


def test_git_gets_the_small_files_and_no_data(tmp_path: Path, tree: Tree) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("tree-*\n")
    root = tmp_path / "below the top"
    root.mkdir()
    commit(root, "digits", tree())
    staged = git(root, "diff", "--cached", "--name-only", "--relative").split()
    assert staged == [".dvc/.gitignore", ".dvc/config", "data.dvc", "data/.gitignore"]
    assert git(root, "ls-files", "--others", "--exclude-standard") == ""


def test_a_folder_that_git_ignores_works_without_git(tmp_path: Path, tree: Tree) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("build/\n/tree-*\n")
    (root := tmp_path / "build").mkdir()
    commit(root, "digits", folder := tree())
    assert pinned(root, "digits") == digest(folder)
    assert git(tmp_path, "status", "--short") == "?? .gitignore\n"


def test_data_that_git_ignores_already(tmp_path: Path, tree: Tree) -> None:
    (root := tmp_path / "project").mkdir()
    git(root, "init", "-q")
    (root / ".gitignore").write_text("/data/\n!/data.dvc\n")
    commit(root, "digits", tree())
    assert not (root / "data" / ".gitignore").exists()
    assert "data.dvc" in git(root, "diff", "--cached", "--name-only")


def test_commit_without_the_git_program(bare: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    commit(bare, "digits", folder := tree())
    assert pinned(bare, "digits") == digest(folder)
    assert pinned(bare, "digits", committed=True) is None


def test_commit_twice_changes_nothing(root: Path, tree: Tree) -> None:
    commit(root, "digits", folder := tree())
    places = [root / "data.dvc", *(root / "data").rglob("*"), *(root / ".dvc" / "cache").rglob("*")]
    before = {p: p.stat() for p in places if p.suffix != ".dir" and p.is_file()}
    assert len(before) > 8
    commit(root, "digits", folder)
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in before} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in before.items()
    }


def test_restore_the_first_of_two_versions(root: Path, tree: Tree, tmp_path: Path) -> None:
    one, two = tree("one"), tree("two")
    (two / "more" / "empty").unlink()
    commit(root, "digits", one)
    commit(root, "digits", two)
    assert contents(root / "data" / "digits") == contents(two)
    restore(root, "digits", digest(one), tmp_path / "new" / "back")
    assert contents(tmp_path / "new" / "back") == contents(one)
    assert os.listdir(tmp_path / "new") == ["back"]
    commit(root, "digits", one)  # back again, as a rollback does
    assert pinned(root, "digits") == digest(one)
    assert contents(root / "data" / "digits") == contents(one)


def test_editing_in_place_harms_neither_cache_nor_store(bare: Path, tree: Tree, tmp_path: Path) -> None:
    commit(bare, "digits", folder := tree())
    expected, version = contents(folder), digest(folder)
    with open(bare / "data" / "digits" / "train-00000.parquet", "r+b") as file:
        file.write(b"scribble")
    assert contents(folder) == expected
    restore(bare, "digits", version, tmp_path / "a")
    with open(folder / "train-00000.parquet", "r+b") as file:
        file.write(b"scribble")
    restore(bare, "digits", version, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == expected
    shutil.rmtree(folder)
    (bare / "data" / "digits" / "link").symlink_to("/etc")  # and what a person added goes
    commit(bare, "digits", tmp_path / "a")
    assert contents(bare / "data" / "digits") == expected


def test_same_trees_same_data_dvc_on_a_fresh_machine(tmp_path: Path, tree: Tree) -> None:
    one, two = tree("one"), tree("two")
    for root, trees in ((tmp_path / "here", (one, two)), (tmp_path / "there", (two,))):
        root.mkdir()
        for folder in trees:
            commit(root, "digits", folder)
    assert (tmp_path / "here" / "data.dvc").read_bytes() == (tmp_path / "there" / "data.dvc").read_bytes()


def test_remote_push_then_restore_after_the_cache_is_lost(root: Path, tree: Tree, tmp_path: Path) -> None:
    commit(root, "digits", one := tree("one"))
    add_remote(root, tmp_path / "remote")
    commit(root, "digits", one)  # nothing new, but the remote lacks it
    commit(root, "digits", two := tree("two"))
    shutil.rmtree(root / ".dvc" / "cache")
    for folder in (one, two):
        restore(root, "digits", digest(folder), tmp_path / f"back-{folder.name}")
        assert contents(tmp_path / f"back-{folder.name}") == contents(folder)


def test_a_fresh_clone_pulls_with_plain_dvc_and_adds_a_dataset(tmp_path: Path, tree: Tree) -> None:
    from dvc.repo import Repo

    (root := tmp_path / "project").mkdir()
    git(root, "init", "-q")
    commit(root, "digits", one := tree("one"))
    add_remote(root, tmp_path / "remote")
    commit(root, "digits", one)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    git(tmp_path, "clone", "-q", "project", "pulled")
    with Repo(str(tmp_path / "pulled")) as repo:
        repo.pull()
    assert contents(tmp_path / "pulled" / "data" / "digits") == contents(one)
    git(tmp_path, "clone", "-q", "project", "bare")  # has no data, needs none to version another dataset
    commit(tmp_path / "bare", "letters", two := tree("two"))
    assert (pinned(tmp_path / "bare", "digits"), pinned(tmp_path / "bare", "letters")) == (digest(one), digest(two))


def test_a_lost_remote_keeps_the_version_here(bare: Path, tree: Tree, tmp_path: Path) -> None:
    commit(bare, "digits", tree("one"))
    (tmp_path / "file").write_text("in the way")
    add_remote(bare, tmp_path / "file" / "remote")
    with pytest.raises(PipelineError, match=r"committed here, but .*'away' failed .*dvc push") as raised:
        commit(bare, "digits", two := tree("two"))
    assert "\n" not in str(raised.value)
    assert pinned(bare, "digits") == digest(two)
    restore(bare, "digits", digest(two), tmp_path / "back")
    (tmp_path / "file").unlink()
    commit(bare, "digits", two)  # the remote is back
    shutil.rmtree(bare / ".dvc" / "cache")
    restore(bare, "digits", digest(two), tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(two)


def test_garbage_in_the_cache_is_found(bare: Path, tree: Tree, tmp_path: Path) -> None:
    commit(bare, "digits", folder := tree())
    bad = cached(bare, md5(folder / "train-00000.parquet"))
    bad.write_bytes(b"garbage" * 1000)  # as root may, though it is read-only
    with pytest.raises(PipelineError, match=f"{bad} is damaged: delete"):
        restore(bare, "digits", digest(folder), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".*"))
    bad.unlink()  # the cure that the message names
    commit(bare, "digits", folder)
    restore(bare, "digits", digest(folder), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


@pytest.mark.parametrize("which", ["file", "listing"])
def test_garbage_in_the_remote_is_found(bare: Path, tree: Tree, tmp_path: Path, which: str) -> None:
    commit(bare, "digits", folder := tree())
    add_remote(bare, tmp_path / "remote")
    commit(bare, "digits", folder)
    oid = digest(folder) if which == "listing" else md5(folder / "train-00000.parquet")
    (tmp_path / "remote" / "files" / "md5" / oid[:2] / oid[2:]).write_bytes(b"[]")
    shutil.rmtree(bare / ".dvc" / "cache")
    with pytest.raises(PipelineError, match="neither the cache nor a remote"):
        restore(bare, "digits", digest(folder), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_half_a_file_left_in_the_cache_is_replaced(bare: Path, tree: Tree) -> None:
    folder = tree()
    half = cached(bare, md5(folder / "train-00000.parquet"))
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    commit(bare, "digits", folder)
    assert half.read_bytes() == (folder / "train-00000.parquet").read_bytes()


@pytest.mark.parametrize("path", ["../../x", "/tmp/ssl_pipeline_must_not_exist", "ok/../../../x"])
def test_a_crafted_version_writes_nothing_outside(bare: Path, tree: Tree, tmp_path: Path, path: str) -> None:
    commit(bare, "digits", folder := tree())
    data = encode({"dataset.json": md5(folder / "dataset.json"), path: md5(folder / "train-00000.parquet")})
    crafted = cached(bare, digest_of(data))
    crafted.parent.mkdir(exist_ok=True)
    crafted.write_bytes(data)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PipelineError, match="leads out of the folder"):
        restore(bare, "digits", digest_of(data), tmp_path / "deep" / "back")
    assert {p for p in set(tmp_path.rglob("*")) - before if "tmp" not in p.parts} == set()
    assert not Path("/tmp/ssl_pipeline_must_not_exist").exists()


def test_a_crafted_checksum_fetches_nothing(bare: Path, tree: Tree, tmp_path: Path) -> None:
    commit(bare, "digits", tree())
    add_remote(bare, remote := tmp_path / "remote")
    data = encode({"a": "../../../../../evil"})
    crafted = remote / "files" / "md5" / digest_of(data)[:2] / digest_of(data)[2:]
    crafted.parent.mkdir(parents=True)
    crafted.write_bytes(data)
    with pytest.raises(PipelineError, match="is no md5"):
        restore(bare, "digits", digest_of(data), tmp_path / "back")


def test_restore_says_what_it_cannot_do(root: Path, tree: Tree, tmp_path: Path) -> None:
    unknown = "0" * 32 + ".dir"
    with pytest.raises(PipelineError, match="no DVC repository"):
        restore(root, "digits", unknown, tmp_path / "back")
    commit(root, "digits", folder := tree())
    with pytest.raises(PipelineError, match=f"named \\({digest(folder)}\\)"):
        restore(root, "digits", unknown, tmp_path / "back")
    with pytest.raises(PipelineError, match="is no digest"):
        restore(root, "digits", "../../x", tmp_path / "back")
    with pytest.raises(PipelineError, match="is not empty"):
        restore(root, "digits", digest(folder), folder)
    (tmp_path / "empty").mkdir()
    restore(root, "digits", digest(folder), tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(folder)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n"])
def test_names_that_are_no_folder_are_refused(bare: Path, tree: Tree, name: str) -> None:
    with pytest.raises(PipelineError, match="cannot be a folder's name"):
        commit(bare, name, tree())


def test_symlinks_are_refused_before_anything_is_written(bare: Path, tree: Tree, tmp_path: Path) -> None:
    (folder := tree()).joinpath("link").symlink_to("/etc/hostname")
    with pytest.raises(PipelineError, match="is a symlink"):
        commit(bare, "digits", folder)
    assert not list(bare.iterdir())
    (folder / "link").unlink()
    (tmp_path / "elsewhere").mkdir()
    (bare / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PipelineError, match="dvc cache dir"):
        commit(bare, "digits", folder)


def test_a_place_that_cannot_be_written_is_one_line(bare: Path, tree: Tree) -> None:
    (bare / ".dvc").write_text("a file in the way")
    with pytest.raises(PipelineError, match=r"dataset 'digits': versioning in .* failed") as raised:
        commit(bare, "digits", tree())
    assert "\n" not in str(raised.value)


def test_dvc_settings_of_the_user_are_kept(bare: Path, tree: Tree, tmp_path: Path) -> None:
    (bare / ".dvc").mkdir()
    (bare / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n[cache]\n    dir = {tmp_path / 'shared'}\n    type = hardlink\n"
    )
    commit(bare, "digits", folder := tree())
    assert (tmp_path / "shared" / "files" / "md5").is_dir()
    assert all(p.stat().st_nlink == 1 for p in (bare / "data" / "digits").rglob("*") if p.is_file())
    assert pinned(bare, "digits") == digest(folder)
