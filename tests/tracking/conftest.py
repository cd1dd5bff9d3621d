from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.tracking import Tracker


class Small(Encoder):
    """A convolution with batch norm and normalisation buffers, quick to export: `[batch, 3, 8, 8]` -> `[batch, 4]`."""

    takes = "image"
    dim = 4

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.register_buffer("mean", torch.rand(1, 3, 1, 1))
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.layers(torch.rand(16, 3, 8, 8))
        self.eval()

    def read(self, batch: Batch) -> Tensor:
        return batch["image"].float() / 255

    def example(self, count: int, generator: torch.Generator | None = None) -> Batch:
        return {"image": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)}

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images - self.mean).mean((2, 3))


@pytest.fixture
def encoder() -> nn.Module:
    return Small()


@pytest.fixture
def other_encoder() -> nn.Module:
    return Small(seed=1)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, so they run once."""
    folder = tmp_path_factory.mktemp("mlflow")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    with tracker.connected():
        pass
    return folder / "mlflow.db"


@pytest.fixture
def new_tracker(tmp_path: Path, database: Path) -> Callable[[], Tracker]:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(database.read_bytes())
    return lambda: Tracker(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")


@pytest.fixture
def tracker(new_tracker: Callable[[], Tracker]) -> Tracker:
    return new_tracker()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("encoder.safetensors", "encoder.json", "model_card.md"):
        (tmp_path / name).write_text(f"{name}, as bytes")
    return [tmp_path / "encoder.safetensors", tmp_path / "encoder.json", tmp_path / "model_card.md"]
