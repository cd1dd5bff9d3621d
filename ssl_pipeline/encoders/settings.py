"""What a recipe may say of its encoder, one part a modality. Kept apart from the encoders, so that a recipe loads without
torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssl_pipeline.encoders.names import closest_backbones, patch_size_in_name
from ssl_pipeline.part import OfKind


class EncoderPart(OfKind):
    """The network that is pretrained. `kind` is the modality of the data that it takes."""

    packed: ClassVar[frozenset[str]]
    """The fields that decide how data is packed for it."""

    def without_weights(self) -> Self:
        """The same network, from scratch."""
        return self.model_copy(update={"pretrained": False}) if "pretrained" in type(self).model_fields else self

    def packing(self) -> dict[str, Any]:
        """What decides the pack: recipes that agree on it share one."""
        return {"kind": self.kind} | self.model_dump(mode="json", include=set(self.packed))


class TimmPart(EncoderPart):
    """What encoders with a timm network in them have in common."""

    backbone: str = "resnet18"
    """Any timm model by name."""
    pretrained: bool | str = False
    """Start from timm's published weights (true) or from a local safetensors file (its path)."""
    options: dict[str, Any] = {}
    """Further arguments of timm.create_model, such as `channels: [16, 32, 64, 128]` for a narrow ResNet."""

    @field_validator("backbone")
    @classmethod
    def backbone_exists(cls, name: str) -> str:
        if (near := closest_backbones(name)) is not None:
            raise ValueError(f"timm has no model {name!r}{near}")
        return name


class ImageEncoder(TimmPart):
    """A timm network on square images."""

    packed = frozenset({"image_size", "channels"})
    kind: Literal["image"] = "image"

    image_size: int = Field(64, ge=8, le=1024)
    """Side in pixels of the square that the encoder sees."""
    channels: Literal["auto", 1, 3] = "auto"
    """Grey or RGB; auto takes the dataset's."""
    stem: Literal["auto", "small", "half", "default"] = "auto"
    """`small` keeps the image's resolution in the first layers, `half` halves it (ResNets), `default` quarters it;
    auto is `small` under 96 pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.image_size, self.image_size

    @model_validator(mode="after")
    def image_holds_a_patch(self) -> Self:
        patch = self.options.get("patch_size") or (
            patch_size_in_name(self.backbone) if self.stem == "default" else None
        )
        if patch and (self.image_size < patch or self.image_size % patch):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of the patch size {patch} of {self.backbone!r}: "
                f"set image_size to {max(1, round(self.image_size / patch)) * patch} or options.patch_size to a divisor"
            )
        return self
