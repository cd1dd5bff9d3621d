"""Masked patches of time series: hide patches of a window, predict their values from the others.

Nie, Nguyen, Sinthong, Kalagnanam 2023, "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers" (PatchTST),
section 3.3: patches do not overlap, so that none shows a hidden one; hidden ones are set to 0 after normalisation; one
linear layer predicts a patch from its token.
L = mean over hidden patches of |prediction - patch|^2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ssl_pipeline.part import late
from ssl_pipeline.pretext.series_views import SeriesViews
from ssl_pipeline.pretext.task import Labels, PretextTask

torch = late("torch")
pd = late("pandas")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.settings_series import SeriesEncoder


class MaskedPatches(PretextTask):
    """Prediction of hidden patches."""

    task: Literal["masked_patches"] = "masked_patches"
    mask_ratio: float = Field(0.4, gt=0, lt=1)
    """Share of patches that is hidden, at the same times in all channels."""
    views: SeriesViews = SeriesViews(min_crop=0.7, warp=0.0, scale=0.0, noise=0.0, hide=0.0, drop=0.0)
    """What happens to the window before patches are hidden; by default a crop and nothing else."""
    kinds: ClassVar[tuple[str, ...]] = ("series",)
    encoder_passes: ClassVar[int] = 1

    def fitted(self, encoder: Any) -> Self:
        if not 0 < round(self.mask_ratio * encoder.tokens) < encoder.tokens:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} of {encoder.tokens} patches hides none or all: use 0.4, or a smaller patch"
            )
        return self

    def draw(self, count: int, encoder: SeriesEncoder, generator: Generator) -> Labels:  # type: ignore[override]
        """`hidden [count, tokens]` with the same number of True in each row, and the view's parameters."""
        noise = torch.rand(count, encoder.tokens, generator=generator).split(65536)
        hidden = torch.cat([part.argsort(1).argsort(1) < round(self.mask_ratio * encoder.tokens) for part in noise])
        return {"hidden": hidden, **self.views.draw((count,), generator)}

    def table(self, labels: Labels) -> DataFrame:
        return pd.DataFrame({"hidden_patches": [row.nonzero().flatten().numpy() for row in labels["hidden"]]})

    def build_head(self, encoder: Any) -> nn.Module:
        return torch.nn.Linear(encoder.norm.normalized_shape[0], encoder.patch_dim)

    def render(self, encoder: Any, inputs: Tensor, labels: Labels) -> Tensor:
        """`[batch, channels, steps]`, nothing hidden yet."""
        return self.views.render(inputs, labels)

    def step(self, encoder: Any, head: nn.Module, views: Tensor, labels: Labels) -> dict[str, Any]:
        patches, level = encoder.patchify(views)  # [batch, lanes, tokens, patch_dim]
        hidden = labels["hidden"][:, None]  # [batch, 1, tokens]
        tokens = encoder.encode(patches.masked_fill(hidden[..., None], 0))
        error = (head(tokens).float() - patches).square().mean(-1)  # [batch, lanes, tokens]
        loss = (error * hidden).sum() / (hidden.sum() * error.shape[1])
        return {"loss": loss, "embedding": encoder.pool(tokens, level)}

    def picture(self, encoder: Any, inputs: Tensor, labels: Labels) -> Tensor:
        """The window, its view, and the view without the hidden patches."""
        views = self.render(encoder, inputs, labels)
        seen = views.masked_fill(labels["hidden"].repeat_interleave(encoder.patch, 1)[:, None], torch.nan)
        columns = [torch.from_numpy(encoder.sketch(series)) for series in (inputs, views, seen)]
        return torch.stack(columns, 1)

    def columns(self) -> list[str]:
        return ["window", "view", "what the encoder sees"]

    def collapse_loss(self, batch_size: int) -> float:
        """Of predicting a normalised channel's mean."""
        return 1.0
