"""What a recipe may say of an encoder of time series."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.encoders.settings import EncoderPart


class SeriesEncoder(EncoderPart):
    """PatchTST: a transformer on patches of a window of time."""

    packed = frozenset({"length", "fit"})
    kind: Literal["series"] = "series"
    length: int = Field(128, ge=4, le=65536)
    """Steps that the encoder sees."""
    fit: Literal["crop", "stretch"] = "crop"
    """How a window of another length gets there: `crop` takes its middle, or repeats its last value; `stretch` resamples it
    linearly, which lets go of how long it lasted."""
    patch: int = Field(8, ge=1)
    """Steps of a patch."""
    channels: Literal["independent", "mixed"] = "mixed"
    """`independent` sees each channel by itself, with the same weights (as in the paper: most robust where channels are many
    and alike, and most work); `mixed` has all channels of a stretch of time in one patch."""
    normalize: Literal["instance", "dataset"] = "dataset"
    """`instance` takes each window's own mean and deviation from each channel (as in the paper: right where level and scale
    drift), and appends both to the embedding; `dataset` only those of the training split."""
    width: int = Field(128, ge=8)
    depth: int = Field(3, ge=1)
    """Transformer blocks."""
    heads: int = Field(4, ge=1)

    @property
    def tokens(self) -> int:
        """Patches along time."""
        return self.length // self.patch

    @model_validator(mode="after")
    def patches_fill_the_window(self) -> Self:
        if self.length % self.patch:
            near = max(1, round(self.length / self.patch)) * self.patch
            raise ValueError(
                f"length {self.length} is not a multiple of patch {self.patch}: set length to {near} or patch to a divisor"
            )
        if self.length < 2 * self.patch:
            raise ValueError(f"patch {self.patch} leaves one patch of length {self.length}: halve it at least")
        return self

    @model_validator(mode="after")
    def heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}: set width to "
                f"{max(1, round(self.width / self.heads)) * self.heads}"
            )
        return self
