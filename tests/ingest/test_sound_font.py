from __future__ import annotations

import struct

import numpy as np
import pytest

from ssl_pipeline.ingest.sound_font import SoundFont

RATE, PERIOD = 22050, 50
SINE = np.sin(2 * np.pi * np.arange(20 * PERIOD) / PERIOD)  # key 69 is 441 Hz in it


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def table(name: bytes, form: str, rows: list[tuple]) -> bytes:
    return chunk(name, b"".join(struct.pack(form, *row) for row in rows))


def signed(value: int) -> int:
    return value & 0xFFFF


@pytest.fixture
def font(tmp_path):
    """Program 5: below key 60 a looped sine at root 69, of key 60 and above the same 6 dB quieter, a semitone up, unlooped and
    decaying; all of the instrument is tuned up 50 cents. Program 6 has its keys in its preset."""
    sound = np.rint(20000 * SINE).astype("<i2").tobytes() + b"\0" * 92
    data = chunk(b"LIST", b"sdta" + chunk(b"smpl", sound))
    keys = [59 << 8, 127 << 8 | 60]
    inner = [
        (52, 50), (43, keys[0]), (54, 1), (53, 0),
        (43, keys[1]), (48, 60), (51, 1), (36, 0), (37, 1000), (58, 69), (53, 0), (0, 0),
    ]  # fmt: skip
    tables = [
        table(
            b"phdr", "<20s3H3I", [(b"one", 5, 0, 0, 0, 0, 0), (b"two", 6, 0, 1, 0, 0, 0), (b"EOP", 0, 0, 2, 0, 0, 0)]
        ),
        table(b"pbag", "<2H", [(0, 0), (1, 0), (4, 0)]),
        table(b"pgen", "<2H", [(41, 0), (43, 40 << 8 | 30), (48, 60), (41, 0), (0, 0)]),
        table(b"inst", "<20sH", [(b"tone", 0), (b"EOI", 3)]),
        table(b"ibag", "<2H", [(0, 0), (1, 0), (4, 0), (11, 0)]),
        table(b"igen", "<2H", inner),
        table(b"shdr", "<20s5IBb2H", [(b"sine", 0, 1000, 500, 1000, RATE, 69, 0, 0, 1), (b"EOS", *[0] * 9)]),
    ]
    data += chunk(b"LIST", b"pdta" + b"".join(tables))
    path = tmp_path / "tone.sf2"
    path.write_bytes(chunk(b"RIFF", b"sfbk" + data))
    return SoundFont(path)


def hertz(note: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 1 << 18))
    return float(spectrum.argmax() * rate / (1 << 18))


def test_a_looped_note_has_its_pitch_for_as_long_as_it_is_held(font):
    note = font.note(5, 57, 1.5, 16000)
    assert len(note) == 24000
    assert hertz(note, 16000) == pytest.approx(220.5 * 2 ** (0.5 / 12), rel=1e-3)
    for part in (note[:2000], note[-2000:]):
        assert np.abs(part).max() == pytest.approx(20000 / 32768, rel=0.01)


def test_zones_differ_by_key_and_share_what_is_common(font):
    low, high = font.zones(5, 59), font.zones(5, 60)
    assert [(z[51], z[52]) for z in (*low, *high)] == [(0, 50), (1, 50)]
    assert len(font.zones(5)) == 2 and len(low) == len(high) == 1
    note = font.note(5, 81, 0.02, 44100)
    assert hertz(note, 44100) == pytest.approx(882 * 2 ** (1 / 12 + 0.5 / 12), rel=0.01)
    assert np.abs(note[:100]).max() == pytest.approx(20000 / 32768 * 10 ** (-6 / 20), rel=0.05)


def test_what_is_not_looped_ends_and_decays(font):
    note = font.note(5, 69, 0.2, 44100)
    end = int(44100 * 1000 / RATE / 2 ** (1.5 / 12))
    assert np.abs(note[: end - 50]).max() > 0.2 and not note[end + 50 :].any()
    peaks = [np.abs(note[at : at + 200]).max() for at in (0, 1000)]
    assert 20 * np.log10(peaks[1] / peaks[0]) == pytest.approx(-100 * 1000 / 44100, rel=0.1)


def test_a_preset_narrows_keys_and_adds_attenuation(font):
    assert not font.zones(6, 41) and not font.zones(6, 29)
    one, two = (np.abs(font.note(program, 35, 0.5, 16000)).max() for program in (5, 6))
    assert two / one == pytest.approx(10 ** (-6 / 20), rel=1e-6)


def test_what_is_no_sound_font_is_refused(tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(b"RIFF\x04\0\0\0sfbk")
    with pytest.raises(KeyError):
        SoundFont(path).zones(0)
