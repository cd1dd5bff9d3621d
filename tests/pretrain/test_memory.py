"""Memory that is too small for a batch, in real child processes: a task that refuses more than so many samples at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretrain import launch
from ssl_pipeline.pretrain.memory import is_full, more_pieces

FAILURES = {
    "GPU": "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.')",
    "CPU": "torch.empty(2**55, dtype=torch.uint8)",  # the allocator's own error
}
SITE = """
import sys
if sys.orig_argv[1:3] == ["-m", "ssl_pipeline.pretrain"] or "ssl_pipeline.pretrain" in sys.orig_argv[:4]:
    import torch
    from ssl_pipeline.pretext import {task}
    real, steps = {task}.step, []
    def step(self, encoder, head, views, labels):
        steps.append(1)
        if torch.is_grad_enabled() and len(next(iter(labels.values()))) > {most} and len(steps) > {after}:
            {failure}
        return real(self, encoder, head, views, labels)
    {task}.step = step
"""


@pytest.fixture
def small_memory(tmp_path, monkeypatch):
    """Children started from here on can take so many samples at a time, after some steps that went well."""

    def install(task: str, most: int, failure: str = "GPU", after: int = 0) -> None:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        text = SITE.format(task=task, most=most, after=after, failure=FAILURES[failure])
        (folder / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}")

    return install


def train(folder, recipe, pack):
    """The summary, the rows and what was said."""
    folder.mkdir()
    said: list[str] = []
    summary = launch.run(recipe, pack, folder, lambda rows: None, say=said.append)
    return summary, launch.Tail(folder / "metrics.jsonl").read(), said


PLAIN = {"epochs": 2, "precision": "fp32", "device": "cpu", "optimizer": "sgd", "checkpoint_seconds": 0, "log_every": 1}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_the_batch_is_cut_until_it_fits_and_the_weights_are_the_same(
    failure, small_memory, make_recipe, digits_pack, vit_settings, tmp_path
):
    """Full from the 16th step on: in four pieces from the last checkpoint, and no backbone with batch statistics."""
    recipe = make_recipe("rotation", encoder=vit_settings, pretrain=PLAIN)
    whole, expected, said = train(tmp_path / "whole", recipe, digits_pack)
    assert whole["accumulate_used"] == 1 and said == []
    small_memory("Rotation", 30, failure, after=15)
    summary, rows, said = train(tmp_path / "pieces", recipe, digits_pack)
    assert (summary["accumulate_used"], summary["steps"]) == (4, whole["steps"])
    assert [line.split(";")[0] for line in said] == [
        f"recipe 'tiny_rotation': memory is full: going on from the last checkpoint with each batch in {n} pieces"
        for n in (2, 4)
    ]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(steps) and len(steps) <= len([row for row in expected if "loss" in row]) + 2
    a, b = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "pieces"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_contrastive_task_says_that_it_is_another_loss_and_two_processes_agree(
    small_memory, make_recipe, digits_pack, tmp_path
):
    small_memory("SimCLR", 10)
    recipe = make_recipe("simclr", pretrain=PLAIN | {"epochs": 1, "warmup_epochs": 0, "processes": 2})
    summary, _, said = train(tmp_path / "run", recipe, digits_pack)
    assert summary["accumulate_used"] == 5 and summary["processes"] == 2
    assert len(said) == 2 and all("another loss than the whole batch's" in line for line in said)
    assert summary["collapse_loss"] == pytest.approx(torch.tensor(2 * 20 - 1.0).log().item())


@pytest.mark.slow
def test_what_fits_in_no_pieces_is_an_error_with_its_cure(small_memory, make_recipe, digits_pack, tmp_path):
    small_memory("Rotation", 0)
    recipe = make_recipe("rotation", pretrain=PLAIN | {"batch_size": 4})
    with pytest.raises(
        PipelineError, match=r"'tiny_rotation': memory is full.*lower pretrain\.batch_size or use a smaller enc"
    ):
        train(tmp_path / "run", recipe, digits_pack)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_pieces_are_of_one_size(make_recipe, digits_pack):
    def all_pieces(task, **pretrain):
        recipe, found = make_recipe(task, pretrain=pretrain), [1]
        while following := more_pieces(recipe, digits_pack, found[-1]):
            found.append(following)
        return found

    assert all_pieces("rotation", batch_size=64) == [1, 2, 4, 8, 16, 32, 64]
    assert all_pieces("rotation", batch_size=64, processes=4) == [1, 2, 4, 8, 16]
    assert all_pieces("rotation", batch_size=100) == [1, 2, 4, 10, 20, 50, 100]
    assert all_pieces("simclr", batch_size=64) == [1, 2, 4, 8, 16, 32]  # one sample has nothing to be compared with
    assert all_pieces("rotation", batch_size=2**20)[:2] == [1, 2]  # a batch is no larger than the split: 1,200


def test_which_errors_are_a_full_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_full(refused.value) and is_full(torch.OutOfMemoryError("CUDA out of memory.")) and is_full(MemoryError())
    assert is_full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) and not is_full(ValueError("out"))
