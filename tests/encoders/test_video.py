from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.encoders.any_encoder import AnyEncoder
from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.encoders.video import build

SETTINGS = VideoEncoder(image_size=16, frames=5, options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]})
FACTS = {"channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build(SETTINGS, FACTS).eval()


def test_an_embedding_is_the_mean_of_the_frames(encoder):
    clips = encoder.read(encoder.example(3))
    one_by_one = torch.stack([torch.stack([encoder.frame(frame[None])[0] for frame in clip]) for clip in clips])
    torch.testing.assert_close(encoder.embed_frames(clips), one_by_one, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(clips), one_by_one.mean(1), atol=1e-5, rtol=1e-5)
    assert encoder(clips).shape == (3, encoder.dim) and encoder.dim == 16


def test_any_number_of_frames_can_be_embedded(encoder):
    assert encoder.embed_frames(torch.rand(2, 3, 3, 16, 16)).shape == (2, 3, 16)
    assert encoder(torch.rand(2, 1, 3, 16, 16)).shape == (2, 16)


def test_the_order_of_frames_does_not_move_the_embedding(encoder):
    clips = torch.rand(2, 5, 3, 16, 16)
    torch.testing.assert_close(encoder(clips.flip(1)), encoder(clips))


def test_what_is_stored_is_read_in_the_autocasts_precision(encoder):
    batch = encoder.example(2)
    assert batch["clip"].shape == (2, 5, 3, 16, 16) and batch["clip"].dtype == torch.uint8
    read = encoder.read(batch)
    assert read.dtype == torch.float32 and torch.equal(read, batch["clip"] / 255)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder.read(batch).dtype == torch.bfloat16
    again = [encoder.example(2, torch.Generator().manual_seed(1))["clip"] for _ in range(2)]
    assert torch.equal(*again)


def test_a_person_sees_the_frame_in_the_middle(encoder):
    batch = encoder.example(2)
    np.testing.assert_array_equal(encoder.show(batch), batch["clip"][:, 2].numpy().astype(np.float32) / 255)


def test_the_normalisation_is_the_packs(encoder):
    assert encoder.frame.mean.flatten().tolist() == pytest.approx(FACTS["mean"])
    assert encoder.frame.std.flatten().tolist() == pytest.approx(FACTS["std"])


def test_saved_and_loaded_it_gives_the_same(encoder, tmp_path):
    encoders.save(encoder, SETTINGS, FACTS, tmp_path)
    clips = torch.rand(2, 5, 3, 16, 16)
    torch.testing.assert_close(encoders.load(tmp_path)(clips), encoder(clips), atol=0, rtol=0)


def test_exported_with_a_batch_of_any_size(encoder):
    clips = encoder.read(encoder.example(2))
    exported = torch.export.export(encoder, (clips,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    for count in (1, 2, 7):
        clips = torch.rand(count, 5, 3, 16, 16)
        torch.testing.assert_close(exported(clips), encoder(clips), atol=1e-5, rtol=1e-5)


def test_settings():
    read = TypeAdapter(AnyEncoder).validate_python({"kind": "video", "image_size": 48})
    assert isinstance(read, VideoEncoder) and read.clip_seconds == pytest.approx(0.8)
    packing = read.packing()
    assert packing["kind"] == "video" and packing["frames"] == 9 and "backbone" not in packing
    assert read.packing() != VideoEncoder(image_size=48, min_motion=0.02).packing()
    with pytest.raises(ValidationError, match="timm has no model 'resnet81'"):
        VideoEncoder(backbone="resnet81")
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        VideoEncoder(frames=1)
