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
def test_killed_it_goes_on_and_asked_to_stop_it_stops_to_the_same_weights(recipe, digits_pack, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    launch.run(recipe, digits_pack, whole, lambda rows: None)
    said = []
    killers = [kill_child(parts, 15, signal.SIGKILL), kill_child(parts, 40, signal.SIGTERM)]
    with pytest.raises(PipelineError, match="status 143"):
        launch.run(recipe, digits_pack, parts, lambda rows: None, say=said.append)
    for killer in killers:
        killer.join()
    assert [line.rpartition("-")[0] for line in said] == [
        "recipe 'tiny_rotation': training was killed by SIGKILL; it goes on from step"
    ]
    launch.run(recipe, digits_pack, parts, lambda rows: None)
    a, b = (load_file(folder / "encoder.safetensors") for folder in (whole, parts))
    assert all((a[k] == b[k]).all() for k in a)


@pytest.mark.parametrize(
    ("saves", "starts"),
    [(["", "", "", ""], 3), (["8", "8", "16", "16", "16"], 5), (["8", "16", "24", "32", "done"], 5)],
    ids=["never", "twice, then no more", "each time"],
)
def test_what_dies_without_getting_any_further_is_given_up(
    make_recipe, digits_pack, tmp_path, monkeypatch, saves, starts
):
    """As a training does for which there is too little memory."""
    (tmp_path / "checkpoints").mkdir()
    left = iter(saves)

    def dies(recipe, pack, folder, poll, plan):
        if (saved := next(left)) == "done":
            (folder / "summary.json").write_text("{}")
            return 0, 0
        if saved:
            (folder / "checkpoints" / f"step-{int(saved):08d}.json").touch()
        return -signal.SIGKILL, 0

    (tmp_path / "train.log").touch()
    monkeypatch.setattr(launch, "attempt", dies)
    said = []
    if saves[-1] == "done":
        assert launch.run(make_recipe(), digits_pack, tmp_path, lambda rows: None, say=said.append) == {}
    else:
        with pytest.raises(PipelineError, match=r"killed by SIGKILL; out of memory\? lower pretrain\.batch_size"):
            launch.run(make_recipe(), digits_pack, tmp_path, lambda rows: None, say=said.append)
    assert len(said) == starts - 1


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
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script's background ignores
        threading.Timer(1, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            launch.end(child)
        signal.signal(signal.SIGINT, before)
    else:
        launch.end(child)
    gone, alive = psutil.wait_procs(family, timeout=5)
    assert len(gone) == 2 and not alive and time.monotonic() - started < 20


@pytest.mark.slow
def test_those_that_train_do_not_outlive_torchrun(make_recipe, digits_pack, tmp_path):
    """torchrun alone is killed: they write a checkpoint and leave, and the next attempt goes on from it."""
    recipe = make_recipe("rotation", pretrain={"epochs": 12, "batch_size": 96, "processes": 2, "log_every": 1})
    workers, said = [], []

    def kill_torchrun(rows):
        if not workers:
            (torchrun,) = [p for p in psutil.Process().children() if "torch.distributed.run" in p.cmdline()]
            workers.extend(torchrun.children())
            torchrun.kill()

    launch.run(recipe, digits_pack, tmp_path, kill_torchrun, say=said.append)
    assert len(workers) == 2 and not any(p.is_running() for p in workers)
    (killed,) = said
    assert "killed by SIGKILL" in killed
    steps = [row["step"] for row in launch.Tail(tmp_path / "metrics.jsonl").read() if "loss" in row]
    assert steps == sorted(set(steps))  # nothing was trained twice


@pytest.mark.slow
def test_an_alarm_arrives_as_its_cause(make_recipe, digits_pack, tmp_path):
    recipe = make_recipe("simclr", pretrain={"learning_rate": 1e30, "warmup_epochs": 0, "log_every": 1})
    with pytest.raises(PipelineError, match=r"recipe 'tiny_simclr': the loss is .*lower pretrain\.learning_rate"):
        launch.run(recipe, digits_pack, tmp_path, lambda rows: None)


def test_what_is_trained_to_its_end_is_not_trained_again(make_recipe, digits_pack, tmp_path, monkeypatch):
    """Where MLflow's files, or a picture, failed after it."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n')
    (tmp_path / "summary.json").write_text('{"steps": 10}')
    monkeypatch.setattr(launch, "attempt", lambda *_: pytest.fail("it trains"))
    told = []
    assert launch.run(make_recipe(), digits_pack, tmp_path, told.extend) == {"steps": 10}
    assert [row["step"] for row in told] == [5, 10]


def test_a_disk_too_full_to_say_so(tmp_path):
    (tmp_path / "train.log").touch()
    assert "free space there" in launch.cause(tmp_path, launch.SPEECHLESS)
