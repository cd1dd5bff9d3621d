"""Bytes to sound: the one place where a recording is decoded, and the rules for what a sample's value is.

WAV, AIFF, FLAC, OGG (Vorbis, Opus) and MP3 at any rate and with any number of channels become floats, full scale at -1 and 1.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import numpy as np
import soundfile
from scipy.signal import resample_poly

from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.medium import FILE, FLOAT, INT, Sample, median

MAX_VALUES = 1 << 28
"""Samples times channels: 1 GiB when decoded, 4.6 hours of mono at 16 kHz or 46 minutes of stereo at 48 kHz."""
MAX_RATE = 1_000_000
MAX_PEAK = 10.0
"""Largest value, in units of full scale, that counts as loud and not as another scale: 20 dB above it."""
UNKNOWN_LENGTH = 0x7FFF0000
"""Chunk sizes from here on are what writers into a pipe put for a length they could not know."""
BLOCK = 1 << 16


class Audio:
    """Recordings in the eyes of ingestion; their length is counted in milliseconds."""

    columns = {"audio": (FILE, {"_type": "Audio"}), "rate": INT, "channels": INT, "seconds": FLOAT}

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        pcm, rate = decode(data)
        channels, samples = pcm.shape
        seconds = samples / rate
        columns = {
            "audio": {"bytes": data, "path": None}, "rate": rate, "channels": channels, "seconds": seconds,
        }  # fmt: skip
        counted = {"rate": rate, "channels": channels, "milliseconds": round(1000 * seconds)}
        return Sample(sample_id(pcm, rate), columns, counted)

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        lengths = tallies["milliseconds"]
        counts = {"rates": tallies["rate"], "channels": tallies["channels"]}
        return {
            "seconds": {name: of(lengths) / 1000 for name, of in (("min", min), ("median", median), ("max", max))},
            **{name: {str(value): tally[value] for value in sorted(tally)} for name, tally in counts.items()},
        }


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """A whole recording: float32 `[channels, samples]` and its rate in Hz.

    Raises BadSample with the reason. What would take more than 1 GiB is refused by its header, before it is decoded.
    """
    if not data:
        raise BadSample("empty file")
    looks_like = container(data)
    if looks_like is None:
        raise BadSample("not audio")
    try:
        if is_broken_off(data):
            raise BadSample(f"damaged {looks_like}: its end is missing")
        with soundfile.SoundFile(BytesIO(data)) as file:
            refuse_oversized(file)
            declared, rate = file.frames, file.samplerate
            pcm = file.read(declared, dtype="float32", always_2d=True)
    except BadSample:
        raise
    except Exception as error:  # libsndfile's errors, and what its wrapper makes of impossible headers
        detail = str(error).rpartition(">: ")[2]  # without the memory address of the open file
        raise BadSample(f"damaged {looks_like}: {' '.join(detail.split()) or type(error).__name__}") from error
    if len(pcm) < declared and (looks_like != "MP3" or counts_frames(data)):
        raise BadSample(f"damaged {looks_like}: {len(pcm)} of {declared} samples can be read")
    return checked(pcm).T, rate


def container(data: bytes) -> str | None:
    """The format by how the file begins; None for anything that is not read."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[:4] in (b"fLaC", b"OggS"):
        return "FLAC" if head[:4] == b"fLaC" else "OGG"
    # an MP3 begins with a tag, or with the eleven set bits of a frame of layer III
    frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return "MP3" if head[:3] == b"ID3" or frame else None


def is_broken_off(data: bytes) -> bool:
    """Whether a WAV, an AIFF or an Ogg file promises more than it holds. libsndfile passes over that: a copy that was broken
    off would look like a shorter recording."""
    if data[:4] == b"OggS":
        return not has_last_page(data)
    if data[:4] not in (b"RIFF", b"FORM"):
        return False
    order: Literal["little", "big"] = "little" if data[:4] == b"RIFF" else "big"
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if data[at : at + 4] in (b"data", b"SSND"):
            return len(data) < at + 8 + size and size < UNKNOWN_LENGTH
        at += 8 + size + size % 2
    return False


def has_last_page(data: bytes) -> bool:
    """Whether an Ogg file's last page is whole and says that it is the last (RFC 3533, section 6: header type 4; the lengths
    of a page's pieces stand from byte 27 on, their number before them)."""
    page = data.rfind(b"OggS")
    lengths = data[page + 27 : page + 27 + data[page + 26]] if len(data) > page + 26 else b""
    return bool(lengths) and bool(data[page + 5] & 4) and len(data) >= page + 27 + len(lengths) + sum(lengths)


def counts_frames(data: bytes) -> bool:
    """Whether an MP3 says how many frames it has. Of others libsndfile guesses the length from the size: where their bit
    rate varies, a long guess is no damage, and a short one loses their end."""
    return any(tag in data[: 1 << 20] for tag in (b"Xing", b"Info", b"VBRI"))


def refuse_oversized(file: soundfile.SoundFile) -> None:
    rate, channels, samples = file.samplerate, file.channels, file.frames
    if not 0 < rate <= MAX_RATE:
        raise BadSample(f"impossible rate: {rate} Hz")
    if samples * channels > MAX_VALUES:
        raise BadSample(
            f"oversized: {samples / rate / 3600:.1f} hours of {channels} channels at {rate} Hz, above {MAX_VALUES >> 20} Mi values"
        )


def checked(pcm: np.ndarray) -> np.ndarray:
    """The samples, if there is something to learn from in them."""
    if not len(pcm):
        raise BadSample("no samples")
    peak = float(max(pcm.max(), -pcm.min()))
    if not math.isfinite(peak):
        raise BadSample("not finite: it holds NaN or infinity")
    if (pcm == pcm[0]).all():
        raise BadSample("silent: all samples are equal")
    if peak > MAX_PEAK:
        raise BadSample(f"unknown scale: values up to {peak:g}, expected -1..1")
    return pcm


def sample_id(pcm: np.ndarray, rate: int) -> str:
    """BLAKE2b-128 of a decoded recording's rate, shape and values, in hexadecimal: equal sound is the same sample."""
    channels, samples = pcm.shape
    digest = hashlib.blake2b(f"{rate} {channels}x{samples} ".encode(), digest_size=16)
    for at in range(0, samples, BLOCK):
        values = pcm[:, at : at + BLOCK].T + np.float32(0)  # makes -0, which only floats have, 0
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()


def waveform(data: bytes, rate: int, samples: int) -> np.ndarray:
    """int16 `[samples]` at `rate`: the mean of the channels, resampled without aliasing; of longer recordings the middle,
    shorter ones followed by zeros. Raises BadSample as `decode` does."""
    pcm, source_rate = decode(data)
    up, down = (value // math.gcd(rate, source_rate) for value in (rate, source_rate))
    start = max(0, (math.ceil(pcm.shape[1] * up / down) - samples) // 2)
    # only the middle is resampled, with what the filter reaches on both sides, from where the two rates' grids meet
    reach = 10 * max(1, math.ceil(down / up))
    first = max(0, start * down // up - reach) // down * down
    mono = pcm[:, first : (start + samples) * down // up + 1 + reach].mean(0, dtype=np.float64)
    resampled = resample_poly(mono, up, down) if up != down else mono
    kept = resampled[start - first * up // down :][:samples]
    out = np.zeros(samples, np.int16)
    out[: len(kept)] = np.clip(np.rint(kept * 32768), -32768, 32767)
    return out
