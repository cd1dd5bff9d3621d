"""The training process, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from safetensors.torch import load_file

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretrain import launch
from ssl_pipeline.pretrain.__main__ import drop_torn_line


@pytest.fixture
def recipe(make_recipe):
    return make_recipe("rotation", pretrain={"epochs": 6, "checkpoint_seconds": 0, "log_every": 1})


def kill_child(folder, after_rows, number):
    """Sends a signal to the trainer once its curve has some rows."""

    def wait():
        while len(launch.Tail(folder / "metrics.jsonl").read()) < after_rows:
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", f"ssl_pipeline.pretrain {folder}"], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[0]), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_weights(recipe, digits_pack, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    launch.run(recipe, digits_pack, whole, lambda rows: None)
    for number, name in ((signal.SIGKILL, "SIGKILL"), (signal.SIGTERM, "status 143")):
        seen = len(launch.Tail(parts / "metrics.jsonl").read())
        killer = kill_child(parts, seen + 15, number)
        with pytest.raises(PipelineError, match=name):
            launch.run(recipe, digits_pack, parts, lambda rows: None)
        killer.join()
    launch.run(recipe, digits_pack, parts, lambda rows: None)
    a, b = (load_file(folder / "encoder.safetensors") for folder in (whole, parts))
    assert all((a[k] == b[k]).all() for k in a)


@pytest.mark.parametrize(("left", "kept"), [(b'{"a": 1}\n{"b', b'{"a": 1}\n'), (b'{"a', b""), (b"", b"")])
def test_a_line_torn_by_a_full_disk_is_cut_off(tmp_path, left, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(left)
    with open(path, "ab+") as file:
        drop_torn_line(file)
        file.write(b"{}\n")
    assert path.read_bytes() == kept + b"{}\n"


@pytest.mark.slow
def test_the_trainer_does_not_outlive_its_parent(recipe, digits_pack, tmp_path):
    script = (
        "import sys; from pathlib import Path; from ssl_pipeline.pretrain import launch\n"
        "from ssl_pipeline.pretext.pack import Pack; from ssl_pipeline.recipe import Recipe\n"
        "recipe, pack, folder = Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "launch.run(recipe, Pack(pack, {'channels': 1, 'mean': [0.3], 'std': [0.37]}), folder, lambda rows: None)"
    )
    arguments = [recipe.model_dump_json(), str(digits_pack.path), str(tmp_path)]
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments])
    while len(launch.Tail(tmp_path / "metrics.jsonl").read()) < 5:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if subprocess.run(["pgrep", "-f", f"ssl_pipeline.pretrain {tmp_path}"], capture_output=True).returncode:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the training process is still there ten seconds after its parent was killed")
    assert list((tmp_path / "checkpoints").glob("*.pt"))


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) < 3:
    subprocess.Popen([sys.executable, *sys.argv, "again"], start_new_session=True)  # as torchrun does
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("again", [False, True])
def test_what_ignores_term_is_killed_with_its_children(again, tmp_path, monkeypatch):
    """After its time for a checkpoint or, at a second Ctrl-C, at once."""
    monkeypatch.setattr(launch, "PATIENCE_SECONDS", 60 if again else 0.5)
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, str(tmp_path / "stubborn.py"), "ssl_pipeline.pretrain"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout and [child.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    started = time.monotonic()
    if again:
        threading.Timer(1, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            launch.end(child)
    else:
        launch.end(child)
    gone, alive = psutil.wait_procs(family, timeout=5)
    assert len(gone) == 2 and not alive and time.monotonic() - started < 20


@pytest.mark.slow
def test_those_that_train_do_not_outlive_torchrun(make_recipe, digits_pack, tmp_path):
    """torchrun alone is killed: the launcher says so, and the next attempt does not wait for them."""
    recipe = make_recipe("rotation", pretrain={"epochs": 400, "batch_size": 96, "processes": 2, "log_every": 1})
    workers = []

    def kill_torchrun(rows):
        if not workers:
            (torchrun,) = [p for p in psutil.Process().children() if "torch.distributed.run" in p.cmdline()]
            workers.extend(torchrun.children())
            torchrun.kill()

    with pytest.raises(PipelineError, match="killed by SIGKILL"):
        launch.run(recipe, digits_pack, tmp_path, kill_torchrun)
    gone, alive = psutil.wait_procs(workers, timeout=40)
    assert len(gone) == 2 and not alive
    assert list((tmp_path / "checkpoints").glob("*.json"))


@pytest.mark.slow
def test_an_alarm_arrives_as_its_cause(make_recipe, digits_pack, tmp_path):
    recipe = make_recipe("simclr", pretrain={"learning_rate": 1e30, "warmup_epochs": 0, "log_every": 1})
    with pytest.raises(PipelineError, match=r"recipe 'tiny_simclr': the loss is .*lower pretrain\.learning_rate"):
        launch.run(recipe, digits_pack, tmp_path, lambda rows: None)
