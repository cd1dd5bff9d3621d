from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict

import numpy as np
import pytest

from ssl_pipeline.ingest import demo_audio
from ssl_pipeline.ingest.audio import Audio, decode
from ssl_pipeline.part import PipelineError


@pytest.fixture(scope="module")
def notes():
    if importlib.util.find_spec(demo_audio.PACKAGE) is None:
        pytest.skip(f"package {demo_audio.PACKAGE} is not installed")
    return list(demo_audio.items())


def test_every_family_has_notes_of_several_groups(notes):
    assert 2300 < len(notes) < 2500 and len({item.source for item in notes}) == len(notes)
    groups = defaultdict(set)
    for item in notes:
        groups[item.label].add(item.group)
    assert len(groups) == 9 and min(map(len, groups.values())) >= 5
    assert sum(map(len, groups.values())) == len({item.group for item in notes})  # none stands in two families
    assert max(Counter(item.group for item in notes).values()) < 200


def test_every_note_is_a_sample_of_its_own(notes):
    ids = {Audio().read(item.load(), {}).identity for item in notes[::10]}
    assert len(ids) == len(notes[::10])
    assert notes[0].load() == notes[0].load()


@pytest.mark.parametrize("program, name", [(73, "flute"), (56, "trumpet"), (0, "piano")])
def test_a_note_has_the_pitch_of_its_key(notes, program, name):
    played = [item for item in notes if f"/{program:03d}/" in item.source]
    assert len(played) >= 5
    for item in played[:: max(1, len(played) // 5)]:
        pcm, rate = decode(item.load())
        key = int(item.source[-7:-4])
        fundamental = 440 * 2 ** ((key - 69) / 12)
        spectrum = np.abs(np.fft.rfft(pcm[0] * np.hanning(pcm.shape[1]), 1 << 17))
        loudest = spectrum.argmax() * rate / (1 << 17)
        harmonic = max(1, round(loudest / fundamental))
        assert 12 * abs(np.log2(loudest / harmonic / fundamental)) < 0.5, (item.source, loudest, fundamental)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo_audio, "PACKAGE", "no_such_package")
    with pytest.raises(PipelineError, match="pip install no_such_package"):
        next(demo_audio.items())
