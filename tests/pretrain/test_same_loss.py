"""Wherever the images are kept, however a step is computed, however many processes share it: the same loss on the same
samples. Tolerances are those of the arithmetic: none where it is the same; 1e-5 for the first loss where sums are taken in
another order, and 1e-3 for those that follow from weights that differ by such roundings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.image import write_encoded
from ssl_pipeline.pretrain import launch
from ssl_pipeline.pretrain.compute import worth_compiling
from ssl_pipeline.pretrain.data import Samples
from ssl_pipeline.pretrain.loop import pretrain

TASKS = ["rotation", "inpainting", "simclr"]
EXACT = {"precision": "fp32", "log_every": 1, "optimizer": "sgd", "learning_rate": 0.005}


@pytest.fixture(scope="module")
def encoded_pack(digits_pack, tmp_path_factory):
    """The same digits as PNG files that are decoded when they are asked for."""
    folder = tmp_path_factory.mktemp("encoded")
    for split in ("train", "validation", "test"):
        pixels = digits_pack.samples(split)["image"]
        rows = []
        for image in pixels:
            file = BytesIO()
            Image.fromarray(image[0]).save(file, "PNG")
            rows.append({"image": {"bytes": file.getvalue()}})
        with write_encoded(folder, split, pixels.shape) as put:
            put(0, pixels, rows)
        digits_pack.index(split).to_parquet(folder / f"{split}.parquet")
    (folder / "encoded.json").write_text(json.dumps({"side": 16, "channels": 1}))
    return Pack(folder, digits_pack.facts)


def losses(recipe, pack, folder):
    rows = []
    pretrain(recipe, pack, folder, rows.append)
    return np.array([row["loss"] for row in rows if "loss" in row] + [rows[-1]["validation/loss"]])


def agree(expected, got):
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("tier", ["resident", "mapped", "decoded"])
def test_every_tier_gives_the_same_batches_in_order(tier, digits_pack, encoded_pack):
    pack = encoded_pack if tier == "decoded" else digits_pack
    samples = Samples(pack.samples("train"), torch.device("cpu"), tier=tier)
    parts = list(torch.randperm(1200, generator=torch.Generator().manual_seed(0)).split(100))
    stored = digits_pack.samples("train")["image"]
    got = list(samples.batches(parts))
    assert samples.tier == tier and len(got) == 12
    for part, batch in zip(parts, got, strict=True):
        image = batch["image"]
        assert image.dtype == torch.uint8 and (image.numpy() == stored[part.numpy()]).all()


def test_the_tier_follows_from_size_and_memory(digits_pack, encoded_pack, monkeypatch):
    cpu, stored = torch.device("cpu"), digits_pack.samples("train")["image"]
    for free, mapped, encoded in (
        (stored.nbytes * 4, "resident", "resident"),
        (stored.nbytes * 4 - 4, "mapped", "decoded"),
    ):
        monkeypatch.setattr("ssl_pipeline.pretrain.data.free_memory", lambda device, free=free: free)
        assert Samples({"image": stored}, cpu).tier == mapped
        assert Samples(encoded_pack.samples("train"), cpu).tier == encoded
    monkeypatch.setattr("ssl_pipeline.pretrain.data.free_memory", lambda device: stored.nbytes * 4)
    assert Samples({"image": stored}, cpu, processes=2).tier == "mapped"


def test_reading_ahead_stops_with_its_reader_and_passes_errors_on(digits_pack):
    class Broken:
        nbytes, shape = 0, (10,)

        def __len__(self):
            return 10

        def __getitem__(self, which):
            raise OSError("the disk is gone")

    samples = Samples({"image": Broken()}, torch.device("cpu"), tier="mapped")
    with pytest.raises(OSError, match="the disk is gone"):
        next(samples.batches([torch.arange(3)] * 9))
    started = Samples(digits_pack.samples("train"), torch.device("cpu"), tier="mapped").batches([torch.arange(3)] * 9)
    next(started)
    started.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read ahead")]


@pytest.mark.parametrize("task", TASKS)
def test_every_tier_gives_the_same_losses(task, make_recipe, digits_pack, encoded_pack, tmp_path, monkeypatch):
    recipe = make_recipe(task, pretrain={"epochs": 1, "warmup_epochs": 0, "log_every": 1})
    seen = {}
    for tier, pack in (("resident", digits_pack), ("mapped", digits_pack), ("decoded", encoded_pack)):
        monkeypatch.setattr("ssl_pipeline.pretrain.data.SHARE_OF_MEMORY", 0.25 if tier == "resident" else 0)
        rows = []
        _, summary = pretrain(recipe, pack, tmp_path / tier, rows.append)
        assert summary["samples"] == tier
        seen[tier] = [row["loss"] for row in rows if "loss" in row]
    assert seen["resident"] == seen["mapped"] == seen["decoded"]


@pytest.mark.parametrize("task", TASKS)
def test_bf16_gives_the_loss_of_fp32_to_a_hundredth(task, make_recipe, digits_pack, tmp_path):
    seen = {}
    for precision in ("fp32", "bf16"):
        part = EXACT | {"epochs": 1, "warmup_epochs": 0, "precision": precision}
        seen[precision] = losses(make_recipe(task, pretrain=part), digits_pack, tmp_path / precision)
    np.testing.assert_allclose(seen["bf16"][0], seen["fp32"][0], rtol=0.01)  # before the first update
    np.testing.assert_allclose(seen["bf16"].mean(), seen["fp32"].mean(), rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_compiled_step_gives_the_losses_of_the_plain_one(task, make_recipe, digits_pack, tmp_path):
    seen = []
    for compiled in (False, True):
        part = EXACT | {"epochs": 1, "warmup_epochs": 0, "compile": compiled}
        seen.append(losses(make_recipe(task, pretrain=part), digits_pack, tmp_path / str(compiled)))
    agree(*seen)


def test_compiling_is_decided_by_the_length_of_the_run(make_recipe):
    from ssl_pipeline.encoders.encoder import build

    def decide(images, epochs, side=32, **pretrain_part):
        recipe = make_recipe(
            encoder={"backbone": "resnet18", "image_size": side}, pretrain={"epochs": epochs, **pretrain_part}
        )
        encoder = build(recipe.encoder, {"channels": 3})
        return worth_compiling(recipe.pretrain, recipe.pretext, encoder, images, torch.device("cpu"))

    assert not decide(1000, 2) and decide(50_000, 100)
    assert not decide(50_000, 100, side=96)
    assert decide(1000, 2, compile=True) and not decide(50_000, 100, compile=False)


def train_in(folder, recipe, pack):
    """The summary, the losses, and the weights of a run in processes of its own."""
    folder.mkdir()
    summary = launch.run(recipe, pack, folder, lambda rows: None)
    rows = launch.Tail(folder / "metrics.jsonl").read()
    return (
        summary,
        [row.get("loss", row.get("validation/loss")) for row in rows],
        load_file(folder / "encoder.safetensors"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "part"),
    [
        *((task, {}) for task in (*TASKS, "vicreg", "byol", "dino", "lejepa")),
        ("simclr", {"accumulate": 2}),
        *((task, {"shard": True}) for task in ("rotation", "inpainting", "byol", "dino")),
    ],
)  # fmt: skip
def test_two_processes_give_the_losses_of_one(task, part, make_recipe, digits_pack, tmp_path):
    """Batch norm over both, negatives from both, gradients averaged: up to the order of sums."""
    base = EXACT | {"epochs": 1, "warmup_epochs": 0, "batch_size": 96} | part
    one = make_recipe(task, pretrain=base | {"shard": False})
    two = make_recipe(task, pretrain=base | {"processes": 2})
    _, expected, _ = train_in(tmp_path / "one", one, digits_pack)
    summary, losses, _ = train_in(tmp_path / "two", two, digits_pack)
    assert len(expected) == 13 and summary["processes"] == 2
    agree(expected, losses)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_make_the_step_of_one_big_batch(task, make_recipe, digits_pack, tmp_path):
    """Few samples: torch's own batch norm adds up channels-last float32 one by one, and is off by 1e-3 of many. Noise, not
    digits: on a plain background many equal activations lie at the edge of a ReLU, and roundings decide their side."""
    few = Pack(tmp_path / "few", digits_pack.facts)
    few.path.mkdir()
    for split in ("train", "validation"):
        noise = np.random.default_rng(0).integers(0, 256, (48, 1, 16, 16), np.uint8)
        np.save(few.path / f"{split}.image.npy", noise)
    base = EXACT | {"epochs": 1, "warmup_epochs": 0, "batch_size": 48, "learning_rate": 0.1}
    weights = []
    for processes in (1, 2):
        recipe = make_recipe(task, pretrain=base | {"processes": processes})
        weights.append(train_in(tmp_path / str(processes), recipe, few)[2])
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(make_recipe, digits_pack, tmp_path, monkeypatch):
    """Killed, interrupted, sharded: one process's checkpoint is another number's, and no process is left behind."""
    monkeypatch.setattr(launch, "MOST_DEATHS", 1)  # what is killed is not started again
    base = EXACT | {"epochs": 5, "batch_size": 96, "checkpoint_seconds": 0}
    expected = train_in(tmp_path / "whole", make_recipe("rotation", pretrain=base), digits_pack)[1]
    folder = tmp_path / "parts"
    folder.mkdir()
    for part, number, cause in (
        ({"processes": 2}, signal.SIGKILL, "killed by SIGKILL"),
        ({"processes": 2, "shard": True}, signal.SIGTERM, "status 143"),
    ):
        recipe = make_recipe("rotation", pretrain=base | part)
        seen = len(launch.Tail(folder / "metrics.jsonl").read())
        worker = threading.Thread(target=signal_a_worker, args=(folder, seen + 15, number))
        worker.start()
        with pytest.raises(PipelineError, match=cause):
            launch.run(recipe, digits_pack, folder, lambda rows: None)
        worker.join()
        assert not processes_in(folder)
    launch.run(make_recipe("rotation", pretrain=base), digits_pack, folder, lambda rows: None)
    rows = {(row["step"], "loss" in row): row for row in launch.Tail(folder / "metrics.jsonl").read()}
    got = [
        row.get("loss", row.get("validation/loss"))
        for _, row in sorted(rows.items(), key=lambda r: (r[0][0], not r[0][1]))
    ]
    assert len(got) == len(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-2)


def processes_in(folder):
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]


def signal_a_worker(folder, after_rows, number):
    while len(launch.Tail(folder / "metrics.jsonl").read()) < after_rows:
        time.sleep(0.02)
    workers = [p for p in processes_in(folder) if "torch.distributed.run" not in p.info["cmdline"]]
    os.kill(sorted(p.pid for p in workers)[-1 if number == signal.SIGKILL else 0], number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_launcher_that_goes(number, make_recipe, digits_pack, tmp_path):
    script = (
        "import signal, sys; from pathlib import Path; from ssl_pipeline.pretrain import launch\n"
        "from ssl_pipeline.pretext.pack import Pack; from ssl_pipeline.recipe import Recipe\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "recipe, pack, folder = Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "launch.run(recipe, Pack(pack, {'channels': 1, 'mean': [0.3], 'std': [0.37]}), folder, lambda rows: None)"
    )
    recipe = make_recipe("simclr", pretrain={"epochs": 400, "batch_size": 96, "processes": 2, "log_every": 1})
    arguments = [recipe.model_dump_json(), str(digits_pack.path), str(tmp_path)]
    launcher = subprocess.Popen([sys.executable, "-c", script, *arguments])
    while len(launch.Tail(tmp_path / "metrics.jsonl").read()) < 5:
        time.sleep(0.05)
    assert len(processes_in(tmp_path)) >= 4  # the launcher, torchrun, two that train
    launcher.send_signal(number)
    launcher.wait()
    deadline = time.monotonic() + 40
    while left := processes_in(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert list((tmp_path / "checkpoints").glob("*.json"))
