"""A run that is cancelled in Dagster's UI, or by Ctrl-C, leaves no process behind and a checkpoint to go on from."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.up import start, training, up


def wait_for_rows(root: Path, started: subprocess.Popen[str]) -> None:
    while not any(file.stat().st_size for file in root.glob("store/pretrained_encoder/*.partial/metrics.jsonl")):
        assert started.poll() is None
        time.sleep(0.1)


@pytest.fixture
def long_training(root: Path) -> Path:
    """Hours of it, in two processes under torchrun."""
    recipes = root / "ssl_pipeline" / "defs" / "shapes" / "defs.yaml"
    recipes.write_text(recipes.read_text().replace("epochs: 12", "epochs: 90000, processes: 2"))
    return root


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(long_training: Path) -> None:
    """The whole foreground group gets it, as the terminal sends it."""
    started = start("run", "shapes_simclr", "--to", "pretrained_encoder")
    wait_for_rows(long_training, started)
    assert len(training(long_training)) >= 3  # torchrun and two that train
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(120) == 130
    assert not training(long_training)
    assert list(long_training.glob("store/pretrained_encoder/*.partial/checkpoints/*.json"))


@pytest.mark.slow
def test_cancel_in_the_ui(long_training: Path) -> None:
    """Launched and terminated over GraphQL, as the buttons do it: the run worker is a child of Dagster's code server."""
    with up() as served:
        run_id = served.launch("shapes_simclr")
        wait_for_rows(long_training, served.process)
        assert len(training(long_training)) >= 3
        ended = served.ask(
            f'mutation{{terminateRun(runId: "{run_id}", terminatePolicy: SAFE_TERMINATE){{__typename}}}}'
        )
        assert ended["terminateRun"]["__typename"] == "TerminateRunSuccess"
        deadline = time.monotonic() + 120
        status = ""
        while training(long_training) or status != "CANCELED":
            assert time.monotonic() < deadline, (status, training(long_training))
            status = served.ask(f'{{runOrError(runId: "{run_id}"){{... on Run{{status}}}}}}')["runOrError"]["status"]
            time.sleep(0.5)
        assert list(long_training.glob("store/pretrained_encoder/*.partial/checkpoints/*.json"))
    assert not training(long_training)
