"""DINO: small crops must be assigned to prototypes as a slowly moving teacher assigns the large ones.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", section 3.1, eq. 3
L = mean over pairs of -P'(x_global) . log P(x_other),  P = softmax(s / t_s),  P' = softmax((s' - center) / t_t)

The projector is the batch-normalised one of the other methods. The paper does without on vision transformers and long
runs; in the short runs of small data, centering alone was seen to settle on the uniform assignment.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.encoders.names import token_patch
from ssl_pipeline.part import late
from ssl_pipeline.pretext.joint import JointEmbedding, follow, mlp
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")
gathering = late("ssl_pipeline.pretext.gather")
timm_vit = late("timm.models.vision_transformer")
timm_format = late("timm.layers.format")

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.pretext.task import Labels


class DINO(JointEmbedding):
    """Self-distillation with no labels, two large views and some small ones an image."""

    task: Literal["dino"] = "dino"
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    image_views: ClassVar[Views] = Views(min_scale=0.4, solarize=0.1)
    compares_samples: ClassVar[bool] = True
    local_views: Views = Views(min_scale=0.05, max_scale=0.4)
    locals_per_image: int = Field(4, ge=0)
    local_size: int | None = Field(None, ge=8)
    """Side of the small views in pixels; by default half the image's."""
    prototypes: int = Field(1024, ge=2)
    """65,536 in the paper, for ImageNet."""
    hidden_dim: int = Field(512, ge=2)
    bottleneck_dim: int = Field(128, ge=2)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    center_momentum: float = Field(0.9, ge=0, le=1)
    momentum: float = Field(0.996, ge=0, le=1)
    """Of the teacher at the start; it rises to 1."""

    @property
    def encoder_passes(self) -> int:  # type: ignore[override]
        """Two large views through student and teacher; a small view costs a quarter of a large one."""
        return 4 + math.ceil(self.locals_per_image / 4)

    def fitted(self, encoder: Any) -> Self:
        patch, side = token_patch(encoder), self.local_side(encoder.image_size)
        if patch and side % patch:
            raise ValueError(
                f"local_size {side} is not a multiple of the patch size {patch} of {encoder.backbone}: "
                f"use {max(1, round(side / patch)) * patch}"
            )
        return super().fitted(encoder)

    def local_side(self, image_size: int) -> int:
        return self.local_size or image_size // 2

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        large = super().draw(count, encoder, generator)
        small = self.local_views.draw((count, self.locals_per_image), generator)
        return large | {f"local_{name}": value for name, value in small.items()}

    def render(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The large views `[2 * batch, ...]` and the small ones `[locals * batch, channels, local_side, local_side]`."""
        drawn = {k.removeprefix("local_"): v for k, v in labels.items() if k.startswith("local_")}
        large = super().render(encoder, images, {k: v for k, v in labels.items() if k in drawn})
        if not self.locals_per_image:
            return large, large[:0]
        return large, self.local_views.render(images, drawn, self.local_side(images.shape[-1]))

    def build_head(self, encoder: EncoderModule) -> nn.Module:
        nn = torch.nn
        take_any_size(encoder)
        hidden, narrow = self.hidden_dim, self.bottleneck_dim
        head = nn.Module()
        head.projector = mlp(encoder.dim, hidden, hidden, narrow)
        head.prototypes = nn.Linear(narrow, self.prototypes, bias=False)
        parts = nn.ModuleList([encoder, head.projector, head.prototypes])
        head.teacher = copy.deepcopy(parts).requires_grad_(False)
        head.register_buffer("center", torch.zeros(self.prototypes))
        return head

    def step(self, encoder: EncoderModule, head: Any, views: tuple[Tensor, Tensor], labels: Labels) -> dict[str, Any]:
        large, small = views
        embedding = encoder(large)
        students = [*scores(head.projector, head.prototypes, embedding).chunk(2)]
        if self.locals_per_image:
            students += scores(head.projector, head.prototypes, encoder(small)).chunk(self.locals_per_image)
        with torch.no_grad():
            teacher, projector, prototypes = head.teacher
            targets = scores(projector, prototypes, teacher(large))
            given = F.softmax((targets - head.center) / self.teacher_temperature, dim=1).chunk(2)
            if head.training:
                mean = gathering.everyone(targets.mean(0)[None]).mean(0)
                head.center.lerp_(mean, 1 - self.center_momentum)
        said = [F.log_softmax(s / self.student_temperature, dim=1) for s in students]
        pairs = [(i, j) for i in range(2) for j in range(len(said)) if i != j]
        loss = sum(-(given[i] * said[j]).sum(1).mean() for i, j in pairs) / len(pairs)
        return {"loss": loss, "embedding": embedding}

    def after_step(self, encoder: EncoderModule, head: Any, progress: float) -> None:
        follow(head.teacher, [encoder, head.projector, head.prototypes], self.momentum, progress)

    def picture(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> Tensor:
        large, small = self.render(encoder, images, labels)
        small = F.interpolate(small, images.shape[-2:]) if len(small) else small
        views = torch.cat([images, large, small])
        return views.unflatten(0, (-1, len(images))).transpose(0, 1)

    def columns(self) -> list[str]:
        return [*super().columns(), *(f"small view {i + 1}" for i in range(self.locals_per_image))]

    def collapse_loss(self, batch_size: int) -> float:
        return math.log(self.prototypes)


def scores(projector: nn.Module, prototypes: Any, embedding: Tensor) -> Tensor:
    """`[n, dim]` -> cosines with the prototypes `[n, prototypes]`, in fp32."""
    with torch.autocast(embedding.device.type, enabled=False):
        return F.linear(F.normalize(projector(embedding.float()), dim=1), F.normalize(prototypes.weight, dim=1))


def take_any_size(encoder: EncoderModule) -> None:
    """Lets a vision transformer take images of other sizes, its position embedding resampled; at its own size nothing
    changes, and what is saved is the same. (timm offers this only when a model is made.)"""
    vit = encoder.backbone
    if isinstance(vit, timm_vit.VisionTransformer):
        vit.dynamic_img_size = True
        vit.patch_embed.strict_img_size = vit.patch_embed.flatten = False
        vit.patch_embed.output_fmt = timm_format.Format.NHWC
