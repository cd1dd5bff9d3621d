"""The commands as a shell sees them: exit status, stdout, stderr."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ssl_pipeline import recipe

ROOT = Path(__file__).parents[1]
shapes = runpy.run_path(str(ROOT / "tests" / "orchestration" / "conftest.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with images and recipes, shared by this file's tests."""
    folder = tmp_path_factory.mktemp("project")
    shapes["draw_shapes"](folder / "images")
    (folder / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    defs = folder / "ssl_pipeline" / "defs" / "shapes"
    defs.mkdir(parents=True)
    (defs / "defs.yaml").write_text(shapes["DEFS"])
    return folder


def environment() -> dict[str, str]:
    hidden = ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def cli(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Runs `ssl-pipeline` in a sub-folder of the project: it finds the root by itself."""
    below = root / "images"
    return subprocess.run(
        [str(Path(sys.executable).with_name("ssl-pipeline")), *arguments],
        cwd=below, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that a user can cure."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_help_imports_nothing_slow() -> None:
    script = (
        "import sys, ssl_pipeline.cli as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'dagster', 'torch', 'mlflow', 'numpy'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    commands = "new run demo status embed up clean doctor serve export promote rollback history trace reproduce"
    for command in commands.split():
        assert f"\n  {command} " in shown


def test_new_writes_a_recipe_that_loads(root: Path) -> None:
    done = cli("new", "photos", "--data", ".", "--pretext", "rotation", root=root)
    assert done.returncode == 0, done.stderr
    assert "2 classes: circles, squares" in done.stdout and "ssl-pipeline run photos" in done.stdout
    file = root / "ssl_pipeline" / "defs" / "photos" / "defs.yaml"
    (dataset,), (one,) = recipe.load(file)
    assert dataset.name == "photos" and dataset.source.model_dump()["path"] == "images"
    assert one.name == "photos" and one.pretext.task == "rotation" and one.encoder.image_size == 16
    before = file.read_text()
    assert "exists: choose another name" in refused(cli("new", "photos", "--data", ".", root=root))
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "Photos", "--data", "."], "'Photos_simclr'|'Photos'"),
        (["new", "other", "--data", ".", "--pretext", "simcl"], "'simclr'"),
        (["new", "other", "--data", "nowhere"], "nowhere"),
        (["run", "shapes_simcl"], "there is no recipe 'shapes_simcl'; did you mean 'shapes_simclr'"),
        (["run", "shapes_simclr", "--to", "the_end"], "no stage 'the_end'"),
        (["run", "shapes_simclr", "--to", "clustering"], "no clustering among its evaluations"),
    ],
)
def test_mistakes_are_one_line(root: Path, arguments: list[str], words: str) -> None:
    line = refused(cli(*arguments, root=root))
    assert any(word in line for word in words.split("|")), line


def test_a_used_port_is_named(root: Path) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        port = used.getsockname()[1]
        said = refused(cli("up", "--port", str(free_port()), "--mlflow-port", str(port), root=root))
    assert f"port {port} on 127.0.0.1 cannot be used" in said and "--mlflow-port" in said


def test_status_before_anything_ran(root: Path) -> None:
    report = json.loads(cli("status", "--json", root=root).stdout)
    assert report["tracking_uri"] == f"sqlite:///{root}/store/mlflow/mlflow.db"
    assert {"name": "shapes", "digest": None} in report["datasets"]
    expected = {"name": "shapes_simclr", "modality": "image", "model": "shapes_simclr", "champion": None}
    assert expected in report["recipes"]
    assert not (root / "store" / "mlflow").exists()


def test_one_broken_recipe_leaves_the_others_alone(root: Path) -> None:
    other = root / "ssl_pipeline" / "defs" / "cats" / "defs.yaml"
    other.parent.mkdir(exist_ok=True)
    other.write_text("type: ssl_pipeline.Dataset\nattributes: {name: cats, sauce: {kind: demo}}\n")
    try:
        report = json.loads(cli("status", "--json", root=root).stdout)
        assert "shapes_simclr" in [r["name"] for r in report["recipes"]] and str(other) in report["failed"][0]
        done = cli("run", "shapes_simclr", "--to", "dataset", root=root)
        assert done.returncode == 0 and f"warning: left out: {other}: " in done.stderr
        assert str(other) in refused(cli("run", "cats", root=root))
    finally:
        shutil.rmtree(other.parent)


@pytest.mark.slow
def test_run_status_embed(root: Path, tmp_path: Path) -> None:
    done = cli("run", "shapes_simclr", "--json", root=root)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["recipe"] == report["model"] == "shapes_simclr"
    assert (report["version"], report["champion"]) == (1, 1)
    assert set(report["metrics"]["classification/linear/accuracy/5"]) == {"mean", "low", "high"}
    assert {"random encoder", "raw pixels"} <= set(report["baselines"])
    (card,) = [line for line in done.stderr.splitlines() if line.startswith("card ")]
    assert card.split()[1] == "shapes_simclr:" and Path(card.split()[2]).read_text().startswith("# shapes_simclr")
    status = json.loads(cli("status", "--json", root=root).stdout)
    assert {"name": "shapes", "digest": report["dataset"]} in status["datasets"]
    assert [r["champion"] for r in status["recipes"] if r["name"] == "shapes_simclr"] == [1]
    output = tmp_path / "embeddings.parquet"
    done = cli("embed", "shapes_simclr", "circles", "-o", str(output), root=root)
    assert done.returncode == 0 and "skipped damaged.png" in done.stdout
    table = pq.read_table(output)
    assert table.column_names == ["source", "embedding"] and table.num_rows == 60
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    assert "did you mean" in refused(cli("embed", "models:/shapes@champion", "circles", "-o", str(output), root=root))


@pytest.mark.slow
def test_up_serves_both_and_leaves_nobody_behind(root: Path) -> None:
    ports = [str(free_port()), str(free_port())]
    command = [str(Path(sys.executable).with_name("ssl-pipeline")), "up", "--port", ports[0], "--mlflow-port", ports[1]]
    # as from a script's background job: SIGINT inherited as ignored
    started = subprocess.Popen(
        command, cwd=root, env=environment(), stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        assert started.stdout
        for line in started.stdout:
            if line.startswith("Ctrl-C stops both"):
                break
        assets = graphql(ports[0], "{assetNodes {assetKey {path}}}", wanted="shapes_simclr")
        assert "registered_model" in assets
        assert urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/health", timeout=20).status == 200
        assert "serves this store already" in refused(
            cli("up", "--port", str(free_port()), "--mlflow-port", str(free_port()), root=root)
        )
        family = descendants(started.pid)
        assert len(family) >= 4
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    assert not {"logs", ".logs_queue", "history", "storage"} & {p.name for p in root.iterdir()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def graphql(port: str, query: str, wanted: str) -> str:
    """Asks until `wanted` is in the answer: the code location loads after the server answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"content-type": "application/json"}
    )
    answer = ""
    for _ in range(30):
        answer = urllib.request.urlopen(request, timeout=20).read().decode()
        if wanted in answer:
            break
        time.sleep(1)
    return answer


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
