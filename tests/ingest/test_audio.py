from __future__ import annotations

import struct
import zipfile
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import resample

from ssl_pipeline.ingest import audio
from ssl_pipeline.ingest.audio import Audio, decode, sample_id, waveform
from ssl_pipeline.ingest.item import BadSample
from tests.conftest import repository_data

FORMATS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
LOSSY = {"VORBIS", "OPUS", "MPEG_LAYER_III", "PCM_U8", "ULAW"}


def tone(samples: int = 8000, rate: int = 8000, channels: int = 1) -> np.ndarray:
    """float32 `[samples, channels]` on the grid of 16 bits: a chirp, another one a channel."""
    time = np.arange(samples)[:, None] / rate
    wave = 0.5 * np.sin(2 * np.pi * (300 + 100 * np.arange(channels) + 400 * time) * time)
    return (np.rint(wave * 32767) / 32768).astype(np.float32)


def encoded(wave: np.ndarray, rate: int = 8000, kind: str = "WAV", subtype: str | None = None, **options) -> bytes:
    file = BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind, subtype", FORMATS)
def test_every_format_gives_its_samples(kind, subtype):
    wave = tone(channels=2)
    pcm, rate = decode(encoded(wave, 8000, kind, subtype))
    assert rate == 8000 and pcm.shape == (2, 8000) and pcm.dtype == np.float32
    if subtype in LOSSY:
        inner = slice(500, 7500)
        assert np.abs(pcm[:, inner] - wave.T[:, inner]).mean() < 0.02
    else:
        np.testing.assert_array_equal(pcm, wave.T)


@pytest.mark.parametrize("rate, channels", [(1, 1), (4000, 3), (11025, 1), (44101, 2), (192_000, 8), (384_000, 1)])
def test_any_rate_and_number_of_channels(rate, channels):
    wave = tone(3000, 8000, channels)
    pcm, found = decode(encoded(wave, rate, "WAV", "PCM_16"))
    assert found == rate and np.array_equal(pcm, wave.T)
    assert waveform(encoded(wave, rate, "WAV", "PCM_16"), 16_000, 400).shape == (400,)


def test_equal_sound_is_the_same_sample_whatever_its_container():
    wave = tone(channels=2)
    lossless = [(kind, subtype) for kind, subtype in FORMATS if subtype not in LOSSY]
    ids = {sample_id(*decode(encoded(wave, 8000, *form))) for form in lossless}
    assert len(ids) == 1
    others = [encoded(wave, 16000), encoded(wave[:, :1]), encoded(wave[:-1]), encoded(wave[:, ::-1])]
    assert len(ids | {sample_id(*decode(data)) for data in others}) == 5


@pytest.mark.parametrize("data, reason", [
    (b"", "empty file"),
    (b"RIFF", "not audio"),
    (b"plain text that is long enough to look at", "not audio"),
    (b"\xff\xfeU\0T\0F\0", "not audio"),
    (b"MATLAB 5.0 MAT-file, which libsndfile would read", "not audio"),
    (encoded(tone(0)), "no samples"),
    (encoded(np.zeros(100, np.float32)), "silent"),
    (encoded(np.full((100, 2), [0.25, -0.5], np.float32), subtype="FLOAT"), "silent"),
    (encoded(np.array([0.1, np.nan, 0.2], np.float32), subtype="FLOAT"), "not finite"),
    (encoded(np.array([0.1, -np.inf, 0.2], np.float32), subtype="FLOAT"), "not finite"),
    (encoded(32768 * tone(), subtype="FLOAT"), "unknown scale"),
])  # fmt: skip
def test_what_is_no_sound_is_refused_with_its_reason(data, reason):
    with pytest.raises(BadSample) as refused:
        decode(data)
    assert str(refused.value).partition(":")[0] == reason


@pytest.mark.parametrize("kind, subtype", [form for form in FORMATS if form[0] != "RF64"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
def test_a_copy_that_was_broken_off_is_damaged(kind, subtype, share):
    data = encoded(tone(16000, 16000, 2), 16000, kind, subtype)
    with pytest.raises(BadSample, match=f"damaged {kind}: .{{5,}}"):
        decode(data[: max(60, int(share * len(data)))])


def test_a_length_that_the_writer_could_not_know_is_no_damage():
    data = bytearray(encoded(tone()))
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFFF)
    np.testing.assert_array_equal(decode(bytes(data))[0], tone().T)


def test_an_mp3_without_a_frame_count_is_no_damage():
    noise = np.random.default_rng(0).standard_normal(64000)
    swelling = 0.1 * noise * np.linspace(0, 1, 64000) ** 8  # from its quiet start libsndfile guesses too long
    data = encoded(swelling, 16000, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    start = 4 + data[4:].index(data[:2])  # the second frame: the first holds the count
    assert b"Xing" in data[:start] and b"Xing" not in data[start:]
    assert soundfile.SoundFile(BytesIO(data[start:])).frames > 70000
    assert 64000 <= decode(data[start:])[0].shape[1] < 67000


def test_oversized_is_refused_by_the_header(monkeypatch):
    flac = bytearray(encoded(tone(), kind="FLAC"))
    flac[21] |= 0x0F  # the header's number of samples becomes 64 thousand millions
    reading = []
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: reading.append(1))
    with pytest.raises(BadSample, match="oversized: .* hours of 1 channels at 8000 Hz"):
        decode(bytes(flac))
    assert not reading
    with pytest.raises(BadSample, match="impossible rate: 2000000000 Hz"):
        decode(encoded(tone(), 2_000_000_000))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(FORMATS), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4), st.floats(0, 1)
)
def test_no_bytes_raise_anything_else(capfd, form, flips, keep):
    data = bytearray(encoded(tone(2000), 8000, *form))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        pcm, rate = decode(bytes(data[: int(keep * len(data)) + 1]))
    except BadSample:
        return
    assert np.isfinite(pcm).all() and pcm.shape[1] and rate > 0


def test_waveform_at_its_own_rate_keeps_the_samples():
    wave = tone()
    exact = np.rint(wave[:, 0] * 32768).astype(np.int16)
    np.testing.assert_array_equal(waveform(encoded(wave), 8000, 8000), exact)
    np.testing.assert_array_equal(waveform(encoded(wave), 8000, 5000), exact[1500:6500])
    np.testing.assert_array_equal(waveform(encoded(wave), 8000, 9000), np.pad(exact, (0, 1000)))
    stereo = np.concatenate([wave, -0.5 * wave], 1)
    assert np.abs(waveform(encoded(stereo), 8000, 8000) - 0.25 * exact).max() <= 1


@pytest.mark.parametrize("rate, target", [(8000, 16000), (44100, 16000), (48000, 16000), (22050, 8000), (11025, 16000)])
def test_waveform_resamples_like_the_fourier_transform(rate, target):
    time = np.arange(2 * rate) / rate
    wave = (0.4 * np.sin(2 * np.pi * 440 * time) + 0.3 * np.sin(2 * np.pi * 1234 * time)).astype(np.float32)
    ours = waveform(encoded(wave, rate, subtype="FLOAT"), target, 2 * target) / 32768
    reference = resample(wave, 2 * target)  # exact for a sound that repeats
    assert np.abs(ours - reference)[target // 4 : -target // 4].max() < 2e-3
    middle = waveform(encoded(wave, rate, subtype="FLOAT"), target, target) / 32768
    assert np.abs(middle - ours[target // 2 : target // 2 + target]).max() < 1e-4


def test_waveform_removes_what_the_lower_rate_cannot_hold():
    time = np.arange(48000) / 48000
    wave = (0.5 * np.sin(2 * np.pi * 11000 * time)).astype(np.float32)
    assert np.abs(waveform(encoded(wave, 48000), 16000, 16000)[100:-100]).max() < 0.01 * 16384


def test_waveform_clips_where_floats_go_beyond_full_scale():
    wave = 4 * tone()
    loud = waveform(encoded(wave, subtype="FLOAT"), 8000, 8000)
    assert loud.max() == 32767 and loud.min() == -32768
    assert (np.sign(loud) == np.sign(np.rint(wave[:, 0] * 32768))).all()


def test_the_middle_of_hours_is_resampled_alone(monkeypatch):
    seen = []
    inner = audio.resample_poly
    monkeypatch.setattr(audio, "resample_poly", lambda x, *a: seen.append(len(x)) or inner(x, *a))
    waveform(encoded(tone(400_000)), 16000, 16000)
    assert seen[0] < 8100


def test_medium_reads_counts_and_sums_up():
    medium = Audio()
    samples = [medium.read(encoded(tone(n, channels=c)), {}) for n, c in ((800, 1), (8000, 2), (16000, 1))]
    assert samples[1].columns | {"audio": None} == {"audio": None, "rate": 8000, "channels": 2, "seconds": 1.0}
    assert list(medium.columns) == list(samples[0].columns)
    tallies = {name: Counter(s.counted[name] for s in samples) for name in samples[0].counted}
    assert medium.summary(tallies) == {
        "seconds": {"min": 0.1, "median": 1.0, "max": 2.0}, "rates": {"8000": 3}, "channels": {"1": 2, "2": 1},
    }  # fmt: skip


def test_the_column_is_read_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    from ssl_pipeline.ingest.shards import Shards

    with Shards(tmp_path, Audio()) as shards:
        sample = Audio().read(encoded(tone()), {})
        shards.add("train", {"sample_id": sample.identity, "label": "a", "group": None, "source": "x"} | sample.columns)
    column = datasets.Dataset.from_parquet(str(tmp_path / "train-00000.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(column.features["audio"], datasets.Audio)
    kept = column.cast_column("audio", datasets.Audio(decode=False))[0]
    assert kept["audio"]["bytes"] == encoded(tone()) and kept["rate"] == 8000


def test_real_recordings_are_read():
    with zipfile.ZipFile(repository_data("fsdd.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".wav")][::100]
        samples = [Audio().read(archive.read(name), {}) for name in names]
    assert len({sample.identity for sample in samples}) == len(samples) == 25
    assert all(s.columns["rate"] == 8000 and s.columns["channels"] == 1 for s in samples)
    assert all(0.1 < s.columns["seconds"] < 3 for s in samples)
