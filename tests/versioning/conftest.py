"""Real DVC repositories, with and without git, cut off from this machine's own DVC and git settings."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text("[user]\n name = t\n email = t@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(home / variable))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


@pytest.fixture(params=["git", "no git"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project folder, once in git and once not."""
    folder = tmp_path / "project"
    folder.mkdir()
    if request.param == "git":
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A project folder without git."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Makes a dataset's folder: tree(salt) differs for each salt."""

    def make(salt: str = "one") -> Path:
        folder = tmp_path / f"tree-{salt}"
        (folder / "more" / "deep").mkdir(parents=True)
        (folder / "dataset.json").write_text(f'{{"name": "{salt}"}}\r\n')
        (folder / "train-00000.parquet").write_bytes(salt.encode() * 5000)
        (folder / "more" / "deep" / "ünïcode name.bin").write_bytes(b"the same in all")
        (folder / "more" / "empty").write_bytes(b"")
        return folder

    return make
