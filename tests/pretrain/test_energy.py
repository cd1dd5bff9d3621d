"""Energy, from counters that a folder stands for as Linux would show them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssl_pipeline.pretrain.energy import Meter

CPU = torch.device("cpu")


def package(powercap: Path, name: str, microjoules: int, largest: int = 999) -> Path:
    zone = powercap / name
    zone.mkdir(parents=True)
    (zone / "max_energy_range_uj").write_text(f"{largest}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


def test_packages_add_up_their_parts_do_not_and_a_counter_that_went_round_counts_on(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 900), package(tmp_path, "intel-rapl:1", 10)
    core = package(tmp_path, "intel-rapl:0:0", 5)
    meter = Meter(CPU, powercap=tmp_path)
    first.write_text("100\n")  # 900 -> 999, 0 -> 100
    second.write_text("40\n")
    core.write_text("500\n")
    assert meter.joules() == pytest.approx(230e-6)
    first.write_text("150\n")
    assert meter.joules() == pytest.approx(280e-6)


def test_without_counters_nothing_is_claimed(tmp_path: Path) -> None:
    assert Meter(CPU, powercap=tmp_path / "none").joules() is None
    package(tmp_path, "intel-rapl:0", 900)
    assert Meter(CPU, packages=False, powercap=tmp_path).joules() is None


def test_a_counter_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 1)
    damaged = package(tmp_path, "intel-rapl:1", 1)
    damaged.unlink()
    damaged.mkdir()  # root, as which tests may run, could read it whatever its mode
    assert len(Meter(CPU, powercap=tmp_path).counters) == 1
