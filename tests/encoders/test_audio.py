from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssl_pipeline.encoders.audio import build
from ssl_pipeline.encoders.log_mel import FLOOR, LogMel
from ssl_pipeline.encoders.mel_scale import band_edges, mel_filters
from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings
from ssl_pipeline.part import PipelineError

FACTS = {"mean": -12.0, "std": 4.0}
SMALL = {
    "seconds": 0.32, "mels": 32, "sample_rate": 8000,
    "options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
}  # fmt: skip


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build(Settings(**SMALL), FACTS).eval()


def loop_log_mel(waveform: np.ndarray, rate: int, window: int, hop: int, points: int, mels: int) -> np.ndarray:
    """`[mels, frames]` in float64, a frame, a band and a bin at a time."""
    mel = [2595 * math.log10(1 + hertz / 700) for hertz in (40, rate / 2)]
    edges = [700 * (10 ** ((mel[0] + (mel[1] - mel[0]) * i / (mels + 1)) / 2595) - 1) for i in range(mels + 2)]
    hann = [math.sin(math.pi * i / window) ** 2 for i in range(window)]
    silence = [0.0] * ((window - hop) // 2)
    sound = silence + [value / 32768 for value in waveform.tolist()] + [0.0] * window
    out = np.zeros((mels, len(waveform) // hop))
    for t in range(out.shape[1]):
        piece = np.array([sound[t * hop + i] * hann[i] for i in range(window)])
        piece *= 2 / math.sqrt(points * sum(weight**2 for weight in hann))
        for m in range(mels):
            total = 0.0
            for k in range(points // 2 + 1):
                hertz = k * rate / points
                weight = min(
                    (hertz - edges[m]) / (edges[m + 1] - edges[m]),
                    (edges[m + 2] - hertz) / (edges[m + 2] - edges[m + 1]),
                )
                if weight > 0:
                    total += weight * abs(piece @ np.exp(-2j * np.pi * k * np.arange(window) / points)) ** 2
            out[m, t] = math.log(total + 1e-10)
    return out


def test_log_mel_is_that_of_a_loop_in_float64():
    settings = Settings(sample_rate=8000, seconds=0.1, mels=20)
    rng = np.random.default_rng(0)
    time = np.arange(settings.samples) / 8000
    sound = 9000 * np.sin(2 * np.pi * (200 + 9000 * time) * time) * (time > 0.03) + 30 * rng.standard_normal(len(time))
    sound = sound.round().astype(np.int16)
    ours = LogMel(settings)(torch.from_numpy(sound)[None])[0]
    expected = loop_log_mel(sound, 8000, settings.window, settings.hop, settings.points, 20)
    assert ours.shape == settings.shape == expected.shape
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-3)
    assert expected.max() - expected.min() > 8  # nepers: loud and quiet both count


@pytest.mark.parametrize("rate, window_ms, hop_ms", [(16000, 25, 10), (22050, 25, 10), (8000, 32, 32), (11025, 20, 7)])
def test_zero_is_a_full_scale_sine_and_the_floor_is_silence(rate, window_ms, hop_ms):
    settings = Settings(sample_rate=rate, seconds=0.5, mels=24, window_ms=window_ms, hop_ms=hop_ms)
    log_mel = LogMel(settings)
    for band in (5, 15):
        hertz = band_edges(24, rate)[band + 1]
        wave = 32767 * np.sin(2 * np.pi * hertz * np.arange(settings.samples) / rate)
        spectrogram = log_mel(torch.from_numpy(wave.round().astype(np.int16))[None])[0]
        assert spectrogram.shape == (24, settings.frames)
        middle = spectrogram[:, 3:-3]
        assert (middle.argmax(0) == band).all() and (middle[band] < 0.01).all() and (middle[band] > -0.5).all()
    silence = log_mel(torch.zeros(2, settings.samples, dtype=torch.int16))
    torch.testing.assert_close(silence, torch.full_like(silence, math.log(FLOOR)))
    rounding = torch.randint(
        -1, 2, (1, settings.samples), dtype=torch.int16, generator=torch.Generator().manual_seed(0)
    )
    assert log_mel(rounding).mean() < math.log(FLOOR) + 5


def test_bands_are_triangles_that_meet_at_half():
    filters = mel_filters(10, 4096, 16000)
    edges = band_edges(10, 16000)
    assert edges[0] == pytest.approx(40) and edges[-1] == pytest.approx(8000)
    inner = filters[(np.arange(2049) * 16000 / 4096 > edges[1]) & (np.arange(2049) * 16000 / 4096 < edges[-2])]
    np.testing.assert_allclose(inner.sum(1), 1)
    assert filters.max() <= 1 and filters.max(0).min() > 0.8


def test_a_frame_moves_with_its_sound():
    settings = Settings(seconds=0.4)
    click = torch.zeros(1, settings.samples, dtype=torch.int16)
    click[0, 20 * settings.hop + settings.hop // 2] = 20000
    assert LogMel(settings)(click)[0].sum(0).argmax() == 20


def test_mixed_precision_changes_no_bit_of_the_spectrogram(encoder):
    batch = encoder.example(3, torch.Generator().manual_seed(0))
    exact = encoder.read(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.read(batch), exact)
    assert exact.dtype == torch.float32 and exact.shape == (3, 1, 32, 32)


def test_pictures_are_in_range_and_centred_by_the_facts():
    encoder = build(Settings(**SMALL), FACTS)
    batch = encoder.example(4, torch.Generator().manual_seed(0))
    assert batch["audio"].dtype == torch.int16 and batch["audio"].shape == (4, 2560)
    spectrogram = encoder.log_mel(batch["audio"])
    centred = build(Settings(**SMALL), {"mean": float(spectrogram.mean()), "std": float(spectrogram.std())})
    normal = centred.normalize(centred.read(batch))
    assert normal.mean().abs() < 0.02 and abs(normal.std() - 1) < 0.05
    quiet, loud = ({"audio": torch.full((1, 2560), value, dtype=torch.int16)} for value in (0, 32767))
    assert encoder.read(quiet).max() == pytest.approx(0.5 + (math.log(FLOOR) + 12) / 24)
    narrow = build(Settings(**SMALL), {"mean": -8.0, "std": 1.0})
    assert narrow.read(quiet).max() == 0 and narrow.read(loud).max() == 1
    shown = encoder.show(batch)
    np.testing.assert_array_equal(shown, encoder.read(batch).numpy()[:, :, ::-1])


@pytest.mark.parametrize("parts", [
    {}, {"stem": "half"}, {"stem": "small"}, {"backbone": "test_vit", "options": {"patch_size": 8}},
    {"backbone": "vit_tiny_patch16_224", "options": {"depth": 1}},
    {"backbone": "convnext_atto", "options": {"depths": [1, 1, 1, 1]}},
])  # fmt: skip
def test_any_backbone_takes_rectangles(parts):
    settings = Settings(**(SMALL | {"mels": 32, "seconds": 0.48} | parts))
    encoder = build(settings, FACTS)
    embedding = encoder(encoder.read(encoder.example(2)))
    assert settings.shape == (32, 48) and embedding.shape == (2, encoder.dim)
    embedding.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_exported_with_a_dynamic_batch(encoder, tmp_path):
    class Deployed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, audio):
            return self.encoder(self.encoder.read({"audio": audio}))

    audio = encoder.example(5)["audio"]
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Deployed(), (audio[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "encoder.pt2")
    loaded = torch.export.load(tmp_path / "encoder.pt2").module()
    for n in (1, 2, 5):
        torch.testing.assert_close(loaded(audio[:n]), Deployed()(audio[:n]))


def test_weights_carry_the_scale_but_not_what_settings_decide(encoder):
    state = encoder.state_dict()
    assert state["level"] == -12 and state["deviation"] == 4
    assert not any("filters" in name or "taper" in name for name in state)
    other = build(Settings(**SMALL), {"mean": -3.0, "std": 1.0}).eval()
    other.load_state_dict(state)
    batch = encoder.example(2)
    torch.testing.assert_close(other(other.read(batch)), encoder(encoder.read(batch)))


@pytest.mark.parametrize("parts, message", [
    ({"backbone": "resnet8"}, "timm has no model 'resnet8'; did you mean 'resnet18'"),
    ({"hop_ms": 30}, "hop_ms 30 is above window_ms 25.*set hop_ms to 12.5"),
    ({"seconds": 0.02}, "seconds 0.02 are 2 frames of hop_ms 10: set seconds to 0.08 or more"),
    ({"mels": 256}, "mels 256 are narrower than a window of window_ms 25 resolves at sample_rate 16000: lower mels to 134"),
    ({"backbone": "vit_tiny_patch16_224", "seconds": 1.0}, "seconds 1 are 100 frames.*patch size 16.*set seconds to 0.96"),
    ({"backbone": "vit_tiny_patch16_224", "seconds": 1.0, "stem": "auto"}, "100 frames.*patch size 8.*set seconds to 0.96"),
    ({"backbone": "vit_tiny_patch16_224", "seconds": 1.0, "options": {"patch_size": 32}}, "set seconds to 0.96"),
    ({"backbone": "vit_tiny_patch16_224", "mels": 72}, "mels 72 are not a multiple.*set mels to 64"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_cure(parts, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**parts)


def test_the_cures_are_right():
    assert Settings(mels=134).shape == (134, 96)
    assert Settings(seconds=0.08).frames == 8
    assert Settings(backbone="vit_tiny_patch16_224", seconds=0.96).shape == (64, 96)


def test_a_picture_that_vanishes_is_refused():
    with pytest.raises(PipelineError, match="cannot take a spectrogram of 8 mels x 8 frames: raise encoder.seconds"):
        build(Settings(backbone="vgg11", mels=8, seconds=0.08), FACTS)
    with pytest.raises(PipelineError, match="cannot be made with options .*wings"):
        build(Settings(options={"wings": 2}), FACTS)
