from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.evaluate.frame_order_controls import Asked, ByItself, place_accuracy, probes
from ssl_pipeline.pretext.clip_order import ClipOrder
from ssl_pipeline.pretext.frame_order import FrameOrder
from ssl_pipeline.pretext.views import Views

PLAIN = {
    "views": Views(min_scale=1, max_scale=1, flip=False, color=0, blur=False), "shift": 0, "light": 0,
    "split_channels": False,
}  # fmt: skip
SETTINGS = VideoEncoder(image_size=8, frames=9)


class Brightness(nn.Module):
    """An encoder that sees how bright a frame is."""

    dim, device = 4, torch.device("cpu")

    def read(self, batch):
        return batch["clip"].float() / 255

    def embed_frames(self, clips):
        bright = clips.mean((2, 3, 4))[..., None]
        return torch.cat([bright, bright**2, (9 * bright).sin(), (9 * bright).cos()], -1)


def clips_of(values):
    """Grey frames `[n, frames]` in 0..1 -> stored clips."""
    grey = np.round(values * 255).astype(np.uint8)[:, :, None, None, None]
    return np.broadcast_to(grey, (*grey.shape[:2], 3, 8, 8)).copy()


def found(values, task=None, **options):
    half = len(values) // 2
    clips = clips_of(values)
    task = task or FrameOrder(**PLAIN)
    return probes(task, Brightness(), SETTINGS, clips[:half], clips[half:], draws=3, steps=250, **options)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_motion_from_anywhere_is_known_by_comparing_alone(random):
    """Things move steadily up or down from a random place: one frame says nothing of its time, three say their order."""
    speed = random.choice([-1, 1], (400, 1)) * random.uniform(0.01, 0.02, (400, 1))
    measured = found(random.uniform(0.1, 0.9, (400, 1)) + speed * (np.arange(9) - 4))
    assert measured["order"]["low"] > 0.8
    assert measured["single frame"]["low"] < 1 / 3 < measured["order"]["low"] - 0.15
    assert measured["chance"]["mean"] == pytest.approx(1 / 3)


def test_a_fade_gives_single_frames_away(random):
    measured = found(0.2 + 0.07 * np.arange(9) + random.normal(0, 0.01, (400, 9)))
    assert measured["single frame"]["low"] > 0.6


def test_noise_has_no_order(random):
    measured = found(random.random((400, 9)))
    for probe in ("order", "single frame"):
        assert measured[probe]["low"] < 1 / 3 < measured[probe]["high"] + 0.02


def test_clips_in_a_direction(random):
    """Six classes; a fade gives their places away, too."""
    measured = found(0.2 + 0.07 * np.arange(9) + random.normal(0, 0.005, (300, 9)), ClipOrder(**PLAIN, gap=1))
    assert measured["chance"]["mean"] == pytest.approx(1 / 6)
    assert measured["order"]["low"] > 0.5 and measured["single frame"]["low"] > 0.5


def test_the_order_from_places_against_trying_every_order():
    """Three pieces that are sure of their places are put in their order, whichever is asked."""
    task, torch_generator = FrameOrder(**PLAIN, direction=True), torch.Generator().manual_seed(0)
    head, place = task.build_head(Brightness()), nn.Identity()
    features = 8 * torch.eye(3).repeat(5, 1, 1)
    orders = task.draw(5, SETTINGS, torch_generator)["asked"].long()
    assert place_accuracy(place, head, Asked(features, orders)) == 1
    # without direction, first and last may be mistaken for each other; first and middle not
    both = FrameOrder(**PLAIN)
    head, orders = both.build_head(Brightness()), both.draw(5, SETTINGS, torch_generator)["asked"].long()
    assert place_accuracy(place, head, Asked(features[:, [2, 1, 0]], orders)) == 1
    assert place_accuracy(place, head, Asked(features[:, [1, 0, 2]], orders)) < 1


def test_the_probes_leave_encoder_and_random_numbers_alone(random):
    encoder = Brightness().train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    clips = clips_of(random.random((20, 9)))
    first, second = (probes(FrameOrder(**PLAIN), encoder, SETTINGS, clips, clips, steps=5) for _ in range(2))
    assert first == second
    assert encoder.training and torch.equal(before, torch.random.get_rng_state())


def test_a_head_by_itself_cannot_compare():
    """Its answer for a piece is the same whatever stands beside it."""
    head = ByItself(4, 8, 3).eval()
    pieces = torch.rand(2, 3, 4)
    torch.testing.assert_close(head(pieces)[:, 1], head(pieces.flip(1))[:, 1])
