from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Batch, Encoder
from ssl_pipeline.export.deployed import DeployedEncoder


class Small(Encoder):
    """Convolution, batch norm, dropout and normalisation buffers: all that behaves otherwise in training."""

    takes = "image"

    def __init__(self) -> None:
        super().__init__()
        self.dim = 5
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5))

    def read(self, batch: Batch) -> Tensor:
        return batch["image"].float() / 255

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images - self.mean).mean((2, 3))


def images(batch: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_uint8_in_and_the_encoders_own_embedding_out() -> None:
    encoder = Small()
    encoder(torch.rand(8, 3, 12, 12))  # moves the running statistics
    deployed = DeployedEncoder(encoder)
    encoder.eval()
    for batch in (1, 2, 7):
        given = deployed(images(batch))
        assert given.dtype == torch.float32 and given.shape == (batch, 5) and not given.requires_grad
        torch.testing.assert_close(given, encoder(images(batch).double().float() / 255), rtol=1e-6, atol=1e-6)


def test_the_encoder_goes_on_training_undisturbed() -> None:
    encoder = Small().to(torch.bfloat16)
    deployed = DeployedEncoder(encoder)
    assert encoder.training and encoder.layers[0].weight.requires_grad
    assert encoder.layers[0].weight.dtype == torch.bfloat16
    before = deployed(images(2))
    with torch.no_grad():
        encoder.layers[0].weight.add_(1)
    assert torch.equal(deployed(images(2)), before)
