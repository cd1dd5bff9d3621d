"""Inpainting as masked image modelling: hide most patches of an image, predict their pixels from the rest.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (MAE), for vision transformers: the encoder sees the
visible patches alone, a light transformer decodes the hidden ones.
Pathak et al. 2016, "Context Encoders", and Xie et al. 2022, "SimMIM", for convolutional networks, which cannot skip
patches: hidden ones are painted with the mean colour and a one-layer decoder predicts them.
L = mean over hidden patches of |prediction - pixels|^2, pixels normalised by patch where asked for (MAE, section 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.encoders.names import fine_patch_of, token_patch
from ssl_pipeline.part import late
from ssl_pipeline.pretext.any_views import AnyViews, suited
from ssl_pipeline.pretext.spectrogram_views import SpectrogramViews
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
F = late("torch.nn.functional")
pd = late("pandas")
timm_vit = late("timm.models.vision_transformer")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn


CROPS: dict[str, Any] = {
    "image": Views(min_scale=0.5, color=0.0, blur=False),
    "audio": SpectrogramViews(noise=0, gain=0, frequency_shift=0, frequency_masks=0, time_masks=0),
}
"""A crop and nothing else, which would have to be predicted, too."""


class Inpainting(PretextTask):
    """Prediction of hidden patches."""

    task: Literal["inpainting"] = "inpainting"
    mask_ratio: float = Field(0.6, gt=0, lt=1)
    """Share of patches that is hidden; MAE uses 0.75 on photographs."""
    patch: int | None = Field(None, ge=1)
    """Side of a patch in pixels; by default a seventh or eighth of the image."""
    normalize_target: bool = True
    """Predict pixels minus their patch's mean, over its deviation."""
    decoder_dim: int = Field(128, ge=8)
    decoder_depth: int = Field(1, ge=1)
    """Transformer blocks in MAE's decoder."""
    kinds: ClassVar[tuple[str, ...]] = ("image", "audio")
    views: AnyViews | None = None
    """What happens to the image before patches are hidden; by default a crop and nothing else."""
    encoder_passes: ClassVar[int] = 1

    def fitted(self, encoder: Any) -> Self:
        height, width = encoder.shape
        patch, tokens = self.patch_of(encoder), token_patch(encoder)
        if height % patch or width % patch or (tokens and patch != tokens):
            what = (
                f"is not the patch of {encoder.backbone}"
                if tokens
                else f"does not divide encoder.image_size {height}"
                if height == width
                else f"does not divide the encoder's {height} x {width}"
            )
            raise ValueError(f"patch {patch} {what}: use {tokens or fine_patch_of(encoder.shape)}")
        patches = height * width // patch**2
        if not 0 < round(patches * self.mask_ratio) < patches:
            raise ValueError(f"mask_ratio {self.mask_ratio} of {patches} patches hides none or all: use 0.5")
        views = self.views or CROPS.get(encoder.kind)
        return self.model_copy(update={"views": suited(views, encoder.kind, "views")})

    def patch_of(self, encoder: Any) -> int:
        """The patch's side: the recipe's, else the vision transformer's own, else one that leaves at most eight a side."""
        return self.patch or token_patch(encoder) or fine_patch_of(encoder.shape)

    def draw(self, count: int, encoder: Any, generator: Generator) -> Labels:
        """`hidden [count, patches]` with the same number of True in each row, and the view's parameters."""
        assert self.views is not None
        patches = math.prod(encoder.shape) // self.patch_of(encoder) ** 2
        noise = torch.rand(count, patches, generator=generator).split(65536)  # ranks of a million images take gigabytes
        hidden = torch.cat([part.argsort(1).argsort(1) < patches - self.seen(patches) for part in noise])
        return {"hidden": hidden, **self.views.draw((count,), generator)}

    def seen(self, patches: int) -> int:
        """How many of an image's patches stay visible."""
        return patches - round(patches * self.mask_ratio)

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({"hidden_patches": [row.nonzero().flatten().numpy() for row in labels["hidden"]]})

    def build_head(self, encoder: Any) -> nn.Module:
        if isinstance(encoder.backbone, timm_vit.VisionTransformer):
            return self.build_mae_decoder(encoder)
        images = encoder.read(encoder.example(1))
        with torch.no_grad():
            features = encoder.backbone.eval().forward_features(encoder.normalize(images))
        encoder.backbone.train()
        # the feature map covers at least the image
        upscale = max(-(-images.shape[axis] // features.shape[axis]) for axis in (2, 3))
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(features.shape[1], self.decoder_dim, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(self.decoder_dim, encoder.channels * upscale**2, 1),
            nn.PixelShuffle(upscale),
        )

    def render(self, encoder: Any, images: Tensor, labels: Labels) -> Tensor:
        """`[batch, channels, height, width]`, nothing hidden yet."""
        assert self.views is not None
        return self.views.render(images, labels)

    def step(self, encoder: Any, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        hidden = labels["hidden"]
        predict = self.predict_mae if isinstance(encoder.backbone, timm_vit.VisionTransformer) else self.predict_cnn
        prediction, embedding = predict(encoder, head, views, hidden)
        target = self.patchify(encoder.normalize(views), hidden).float()  # [batch, patches, pixels]
        if self.normalize_target:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-4).sqrt()
        error = (prediction.float() - target).square().mean(-1)  # [batch, patches]
        return {"loss": (error * hidden).sum() / hidden.sum(), "embedding": embedding}

    def patchify(self, images: Tensor, hidden: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, patches, channels * patch * patch]`."""
        patch = side_of_patch(images, hidden)
        blocks = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [b, c, rows, p, columns, p]
        return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def predict_cnn(self, encoder: Any, head: nn.Module, views: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        features = encoder.backbone.forward_features(encoder.normalize(self.paint(views, hidden, encoder.mean)))
        pixels = F.interpolate(head(features), size=views.shape[2:], mode="nearest")
        return self.patchify(pixels, hidden), encoder.pool(features)

    def paint(self, views: Tensor, hidden: Tensor, color: Tensor | float) -> Tensor:
        """The views with hidden patches in one colour."""
        patch = side_of_patch(views, hidden)
        mask = hidden.view(-1, 1, views.shape[2] // patch, views.shape[3] // patch)
        mask = mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return torch.where(mask, color, views)

    def build_mae_decoder(self, encoder: Any) -> nn.Module:
        grid, nn = encoder.backbone.patch_embed.grid_size, torch.nn
        patch = encoder.backbone.patch_embed.patch_size[0]
        decoder = nn.Module()
        decoder.embed = nn.Linear(encoder.dim, self.decoder_dim)
        decoder.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, self.decoder_dim))
        decoder.position = nn.Parameter(0.02 * torch.randn(1, grid[0] * grid[1], self.decoder_dim))
        heads = max(1, self.decoder_dim // 32)
        decoder.blocks = nn.Sequential(
            *[timm_vit.Block(self.decoder_dim, heads, qkv_bias=True) for _ in range(self.decoder_depth)]
        )
        decoder.norm = nn.LayerNorm(self.decoder_dim)
        decoder.predict = nn.Linear(self.decoder_dim, encoder.channels * patch**2)
        return decoder

    def predict_mae(self, encoder: Any, head: Any, views: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        vit = encoder.backbone
        tokens = vit._pos_embed(vit.patch_embed(encoder.normalize(views)))  # [batch, prefix + patches, dim]
        prefix, patches = tokens[:, : vit.num_prefix_tokens], tokens[:, vit.num_prefix_tokens :]
        visible = hidden.long().argsort(dim=1, stable=True)[:, : self.seen(hidden.shape[1])]  # their indices
        seen = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[2]))
        encoded = vit.norm(vit.blocks(vit.norm_pre(torch.cat([prefix, seen], 1))))
        decoded = head.embed(encoded[:, vit.num_prefix_tokens :])
        canvas = head.mask_token.to(decoded.dtype).expand(*hidden.shape, -1)
        canvas = canvas.scatter(1, visible[..., None].expand_as(decoded), decoded) + head.position
        return head.predict(head.norm(head.blocks(canvas))), encoder.pool(encoded)

    def picture(self, encoder: Any, images: Tensor, labels: Labels) -> Tensor:
        views = self.render(encoder, images, labels)
        return torch.stack([images, views, self.paint(views, labels["hidden"], 0.5)], dim=1)

    def columns(self) -> list[str]:
        return ["image", "view", "what the encoder sees"]


def side_of_patch(images: Tensor, hidden: Tensor) -> int:
    """In pixels, of images `[batch, channels, height, width]` that `hidden [batch, patches]` divides into squares."""
    return math.isqrt(images.shape[2] * images.shape[3] // hidden.shape[1])
