from __future__ import annotations

import math

import pytest
import torch

from ssl_pipeline.pretrain import checkpoint
from ssl_pipeline.pretrain.diagnostics import Alarm, TrainingAlarm, effective_rank, embedding_std
from ssl_pipeline.pretrain.loop import Interrupted, pretrain, schedule

TASKS = ["rotation", "inpainting", "simclr"]


def train(recipe, pack, folder, stop=lambda: False):
    rows = []
    encoder, summary = pretrain(recipe, pack, folder, rows.append, stop)
    return encoder, summary, rows


@pytest.mark.parametrize("task", TASKS)
def test_learns_its_task(task, make_recipe, digits_pack, tmp_path):
    mild = {"views": {"min_scale": 0.7, "flip": False, "color": 0.2, "blur": False}}
    recipe = make_recipe(task, mild, pretrain={"epochs": 4, "learning_rate": 3e-3, "batch_size": 50})
    _, summary, rows = train(recipe, digits_pack, tmp_path)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    if summary["collapse_loss"]:
        assert summary["final_loss"] < 0.95 * summary["collapse_loss"]
    assert summary["effective_rank"] > 3
    assert summary["encoder_passes"] == 4 * 1200 * {"rotation": 4, "inpainting": 1, "simclr": 2}[task]


def test_mae_trains_a_vision_transformer(make_recipe, digits_pack, vit_settings, tmp_path):
    recipe = make_recipe("inpainting", encoder=vit_settings, pretrain={"epochs": 3})
    _, _, rows = train(recipe, digits_pack, tmp_path)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("task", TASKS)
def test_resumes_bit_for_bit(task, make_recipe, digits_pack, tmp_path):
    recipe = make_recipe(task, pretrain={"epochs": 3})
    whole, _, _ = train(recipe, digits_pack, tmp_path / "whole")
    for after in (7, 19):  # in the middle of an epoch, twice
        polls = iter(range(1000))
        with pytest.raises(Interrupted):
            train(recipe, digits_pack, tmp_path / "parts", lambda a=after, p=polls: next(p) == a % 12)
    resumed, _, rows = train(recipe, digits_pack, tmp_path / "parts")
    assert rows[0]["step"] > 12
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_gradient_accumulation_adds_up(make_recipe, digits_pack, tmp_path):
    """Rotation's loss is a mean over samples, so pieces must give the whole batch's gradient; a backbone without batch
    statistics makes that exact."""
    encoder = {"backbone": "test_vit", "image_size": 16, "options": {"patch_size": 4}}
    weights = []
    for accumulate in (1, 4):
        pretrain_part = {
            "epochs": 1,
            "warmup_epochs": 0,
            "accumulate": accumulate,
            "precision": "fp32",
            "optimizer": "sgd",
        }
        recipe = make_recipe("rotation", encoder=encoder, pretrain=pretrain_part)
        weights.append(train(recipe, digits_pack, tmp_path / str(accumulate))[0].state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_optimizers_spare_norms_and_biases_from_decay(optimizer, make_recipe, digits_pack, tmp_path, monkeypatch):
    import ssl_pipeline.pretrain.loop as loop

    made = []
    real = loop.create_optimizer_v2
    monkeypatch.setattr(loop, "create_optimizer_v2", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    train(
        make_recipe("simclr", pretrain={"epochs": 1, "warmup_epochs": 0, "optimizer": optimizer}), digits_pack, tmp_path
    )
    for group in made[0].param_groups:
        assert all((p.ndim <= 1) == (group["weight_decay"] == 0) for p in group["params"])


def test_nan_stops_the_run_and_says_why(make_recipe, digits_pack, tmp_path):
    recipe = make_recipe("simclr", pretrain={"learning_rate": 1e30, "warmup_epochs": 0, "log_every": 1})
    with pytest.raises(TrainingAlarm, match=r"loss is .*lower pretrain\.learning_rate"):
        train(recipe, digits_pack, tmp_path)


def test_three_collapsed_rows_stop_the_run():
    alarm = Alarm()
    row = {"step": 1, "loss": 1.0, "gradient_norm": 1.0, "embedding_std": 0.001, "effective_rank": 5.0}
    alarm.check(row)
    alarm.check(row)
    alarm.check(row | {"embedding_std": 0.5})
    alarm.check(row)
    alarm.check(row)
    with pytest.raises(TrainingAlarm, match="collapsed to a point"):
        alarm.check(row)


def test_diagnostics_of_known_embeddings():
    torch.manual_seed(0)
    isotropic = torch.randn(4000, 16)
    assert embedding_std(isotropic) == pytest.approx(1, abs=0.02)
    assert effective_rank(isotropic) == pytest.approx(16, abs=0.1)
    line = torch.randn(100, 1) * torch.ones(1, 16)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert embedding_std(torch.ones(10, 4)) == 0


def test_schedule():
    assert schedule(0, 10, 100) == 0.1 and schedule(9, 10, 100) == 1.0
    assert schedule(10, 10, 100) == 1.0
    assert schedule(55, 10, 100) == pytest.approx(0.5)
    assert schedule(100, 10, 100) == pytest.approx(0, abs=1e-12)
    assert math.isfinite(schedule(0, 0, 1))


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capfd):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"value": torch.tensor(step)})
    assert len(list(tmp_path.glob("*.pt"))) == checkpoint.KEPT
    assert checkpoint.newest(tmp_path)["step"] == 3
    damaged = tmp_path / "step-00000003.pt"
    damaged.write_bytes(damaged.read_bytes()[:-10] + b"x" * 10)
    assert checkpoint.newest(tmp_path)["step"] == 2
    assert "step-00000003.pt is damaged" in capfd.readouterr().out
