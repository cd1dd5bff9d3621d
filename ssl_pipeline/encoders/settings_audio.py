"""What a recipe may say of an encoder of sound."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.encoders.mel_scale import resolves
from ssl_pipeline.encoders.names import patch_size_in_name, token_patch
from ssl_pipeline.encoders.settings import TimmPart


class AudioEncoder(TimmPart):
    """A timm network on the log-mel spectrogram of a recording, seen as a grey picture of mels x frames."""

    packed = frozenset({"sample_rate", "seconds", "mels", "window_ms", "hop_ms"})
    kind: Literal["audio"] = "audio"

    sample_rate: int = Field(16_000, ge=1000, le=192_000)
    """In Hz; recordings are resampled to it. Above twice the highest frequency of the data it adds work and nothing else."""
    seconds: float = Field(0.96, gt=0, le=600)
    """What is kept of a recording and heard at once: the middle of longer ones, shorter ones followed by silence. 0.96 are 96
    frames, which halves and patches divide."""
    mels: int = Field(64, ge=8, le=512)
    """Bands of the spectrogram: the picture's height."""
    window_ms: float = Field(25, gt=0, le=1000)
    """Length of the piece of sound behind one frame."""
    hop_ms: float = Field(10, gt=0, le=1000)
    """Time from one frame to the next."""
    stem: Literal["auto", "small", "half", "default"] = "default"
    """`default` quarters the picture's resolution in the first layers, which spectrograms bear: windows overlap, and harmonics
    are wide; `half` halves it (ResNets) and `small` keeps it, for 4 and 16 times the work; auto is `small` under 96 mels."""

    @property
    def samples(self) -> int:
        """Of the stored waveform."""
        return round(self.sample_rate * self.seconds)

    @property
    def window(self) -> int:
        """In samples."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """In samples."""
        return max(1, round(self.sample_rate * self.hop_ms / 1000))

    @property
    def points(self) -> int:
        """Of the Fourier transform: the power of two that holds a window."""
        return 1 << (self.window - 1).bit_length()

    @property
    def frames(self) -> int:
        """The picture's width: one frame a hop."""
        return self.samples // self.hop

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.mels, self.frames

    @model_validator(mode="after")
    def windows_overlap_and_fit(self) -> Self:
        if self.hop_ms > self.window_ms:
            raise ValueError(
                f"hop_ms {self.hop_ms:g} is above window_ms {self.window_ms:g}, so that sound between windows is never heard: "
                f"set hop_ms to {self.window_ms / 2:g}"
            )
        least = 8 * self.hop_ms / 1000
        if self.frames < 8 or self.samples < self.window:
            raise ValueError(
                f"seconds {self.seconds:g} are {self.frames} frames of hop_ms {self.hop_ms:g}: "
                f"set seconds to {max(least, self.window_ms / 1000):g} or more"
            )
        return self

    @model_validator(mode="after")
    def window_resolves_the_mels(self) -> Self:
        if self.window < 2 or not resolves(self.mels, self.points, self.sample_rate):
            fits = next((m for m in range(self.mels, 7, -1) if resolves(m, self.points, self.sample_rate)), None)
            cure = f"lower mels to {fits} or raise window_ms" if fits else "raise window_ms"
            raise ValueError(
                f"mels {self.mels} are narrower than a window of window_ms {self.window_ms:g} resolves at sample_rate "
                f"{self.sample_rate}: {cure}"
            )
        return self

    @model_validator(mode="after")
    def picture_holds_a_patch(self) -> Self:
        named = patch_size_in_name(self.backbone) if self.stem == "default" else None
        patch = self.options.get("patch_size") or token_patch(self) or named  # type: ignore[arg-type]
        if not isinstance(patch, int) or patch < 1:
            return self
        if self.mels % patch:
            raise ValueError(
                f"mels {self.mels} are not a multiple of the patch size {patch} of {self.backbone!r}: "
                f"set mels to {max(1, round(self.mels / patch)) * patch} or options.patch_size to a divisor"
            )
        if self.frames % patch:
            frames = max(1, round(self.frames / patch)) * patch
            raise ValueError(
                f"seconds {self.seconds:g} are {self.frames} frames, not a multiple of the patch size {patch} of "
                f"{self.backbone!r}: set seconds to {frames * self.hop / self.sample_rate:g} or options.patch_size to a divisor"
            )
        return self
