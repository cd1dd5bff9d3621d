"""Disks that are full or read-only, and a DVC remote that is lost: said in a line, and cured without a loss."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.up import start, training

Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a file system in memory on a folder, until the test ends; skips where that is not permitted."""
    with ExitStack() as unmounted:

        def at(folder: Path, options: str) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
            unmounted.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)

        yield at


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def run(to: str) -> tuple[int, str]:
    """Exit status of the whole command, and the error that it ends with."""
    with start("run", "shapes_simclr", "--to", to, stderr=subprocess.PIPE) as started:
        _, errors = started.communicate(timeout=240)
    return started.returncode, error_of(errors)


def error_of(errors: str) -> str:
    """The last line, where it is no progress bar's."""
    last = (errors.splitlines() or [""])[-1]
    return last if last.startswith("error: ") else ""


def finished(root: Path, stage: str) -> list[Path]:
    return [path for path in root.glob(f"store/{stage}/*") if path.is_dir() and path.suffix != ".partial"]


def steps_of(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(root: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    recipes.write_text(recipes.read_text().replace("epochs: 12", "epochs: 100, checkpoint_seconds: 0"))
    monkeypatch.setenv("SSL_PIPELINE_FREE_GB", "0.001")
    mount(root / "store", "size=64m")
    started = start("run", "shapes_simclr", "--to", "pretrained_encoder", stderr=subprocess.PIPE)
    while not list(root.glob("store/pretrained_encoder/*.partial/checkpoints/*.json")):
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.05)
    with pytest.raises(OSError, match="No space left"), open(root / "store" / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 1 and not training(root)
    said = error_of(errors)
    assert "free space there or set SSL_PIPELINE_STORE to a larger disk" in said and "run again to go on" in said
    assert not finished(root, "pretrained_encoder")
    (root / "store" / "filler").unlink()
    assert run("pretrained_encoder") == (0, "")
    (folder,) = finished(root, "pretrained_encoder")
    steps = steps_of(folder)
    assert sorted(set(steps)) == list(range(10, 501, 10)) and len(steps) <= 51  # it went on, and did not begin anew


@pytest.mark.slow
def test_a_read_only_artifact_store(root: Path, mount: Mount) -> None:
    artifacts = root / "store" / "mlflow" / "artifacts"
    mount(artifacts, "ro,size=64m")
    status, said = run("pretrained_encoder")
    assert status == 1 and "Read-only file system; make it writable" in said and str(artifacts) in said
    assert not finished(root, "pretrained_encoder")
    remount(artifacts, "rw")
    assert run("pretrained_encoder") == (0, "")
    (folder,) = finished(root, "pretrained_encoder")
    assert steps_of(folder) == list(range(10, 61, 10))  # nothing was trained twice
    assert list(artifacts.rglob("curves.png"))


@pytest.mark.slow
def test_a_lost_dvc_remote(root: Path, tmp_path: Path) -> None:
    remote = root / "away" / "remote"
    assert run("dataset") == (0, "")
    (made,) = finished(root, "dataset")
    config = root / ".dvc" / "config"
    config.write_text(
        config.read_text().replace("[core]\n", "[core]\n    remote = away\n")
        + f"['remote \"away\"']\n    url = {remote}\n"
    )
    (root / "away").write_text("where a disk was mounted")
    status, said = run("pretext_labels")
    assert status == 1 and "pushing it to the DVC remote 'away' failed" in said and "when the remote is back" in said
    assert not finished(root, "pretext_labels")
    (root / "away").unlink()
    assert run("pretext_labels") == (0, "")
    assert finished(root, "dataset") == [made] and len(finished(root, "pretext_labels")) == 1
    digest = json.loads((made / "stage.json").read_text())["summary"]["digest"]
    assert (remote / "files" / "md5" / digest[:2] / digest[2:]).is_file()
