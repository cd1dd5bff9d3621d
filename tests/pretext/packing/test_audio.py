from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
import soundfile
import torch

from ssl_pipeline.encoders.log_mel import LogMel
from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings
from ssl_pipeline.ingest.audio import Audio
from ssl_pipeline.ingest.shards import SPLITS, Shards
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.audio import write


def recording(seed: int, samples: int, loudness: float = 0.1) -> bytes:
    file = BytesIO()
    noise = loudness * np.random.default_rng(seed).standard_normal(samples)
    soundfile.write(file, noise.clip(-1, 1), 8000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture
def tree(tmp_path):
    """A dataset of noise of 0.2 to 0.6 seconds, some of it labelled."""
    path = tmp_path / "tree"
    path.mkdir()
    counts = {"train": 70, "validation": 3, "test": 4}
    medium = Audio()
    with Shards(path, medium) as shards:
        for split, count in counts.items():
            for i in range(count):
                sample = medium.read(recording(hash_free(split, i), 1600 + 800 * (i % 5), 0.02 * (1 + i % 7)), {})
                row = {"sample_id": sample.identity, "label": "even" if i % 2 == 0 else None, "group": str(i % 3)}
                shards.add(split, row | {"source": f"{split}/{i}.flac"} | sample.columns)
    (path / "dataset.json").write_text(json.dumps({"splits": counts}))
    return path


def hash_free(split: str, i: int) -> int:
    return 1000 * SPLITS.index(split) + i


@pytest.fixture
def settings():
    return Settings(sample_rate=8000, seconds=0.4, mels=16, options={"layers": [1, 1, 1, 1]})


def test_every_recording_is_a_row_in_the_index_order(tree, tmp_path, settings):
    facts = write(tree, tmp_path, settings)
    pack = Pack(tmp_path, facts)
    for split, count in {"train": 70, "validation": 3, "test": 4}.items():
        array, index = pack.samples(split)["audio"], pack.index(split)
        assert array.dtype == np.int16 and array.shape == (count, 3200) and len(index) == count
        assert list(index["source"]) == [f"{split}/{i}.flac" for i in range(count)]
        assert index["label"].notna().sum() == -(-count // 2) and index["group"].tolist()[:3] == ["0", "1", "2"]
        for i in (0, count - 1):
            pcm, _ = soundfile.read(
                BytesIO(recording(hash_free(split, i), 1600 + 800 * (i % 5), 0.02 * (1 + i % 7))), dtype="int16"
            )
            middle = pcm[max(0, (len(pcm) - 3200) // 2) :][:3200]
            np.testing.assert_array_equal(array[i], np.pad(middle, (0, 3200 - len(middle))))


def test_facts_are_the_moments_of_what_sounds(tree, tmp_path, settings):
    facts = write(tree, tmp_path, settings)
    train = np.load(tmp_path / "train.audio.npy")
    spectrograms = LogMel(settings)(torch.from_numpy(train)).double().numpy()
    values = []
    for sound, spectrogram in zip(train, spectrograms, strict=True):
        for frame in range(settings.frames):
            start = frame * settings.hop - (settings.window - settings.hop) // 2
            if np.any(sound[max(0, start + 1) : start + settings.window]):  # the taper's first weight is zero
                values.append(spectrogram[:, frame])
    assert len(values) < 0.95 * 70 * settings.frames
    assert facts == pytest.approx({"mean": np.mean(values), "std": np.std(values)}, abs=1e-4)
    assert json.loads(json.dumps(facts)) == facts


def test_silence_alone_has_facts_too(tmp_path, settings):
    folder = tmp_path / "tree"
    folder.mkdir()
    file = BytesIO()
    soundfile.write(file, np.array([1e-9, 0, 0, 1e-9]), 8000, format="WAV", subtype="FLOAT")  # rounds to zeros
    sample = Audio().read(file.getvalue(), {})
    with Shards(folder, Audio()) as shards:
        for split in SPLITS:
            shards.add(split, {"sample_id": "x", "label": None, "group": None, "source": "x"} | sample.columns)
    (folder / "dataset.json").write_text(json.dumps({"splits": dict.fromkeys(SPLITS, 1)}))
    assert write(folder, tmp_path, settings)["std"] > 0
