"""What methods that compare embeddings of several views of an image share: the views, their table and their picture."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ssl_pipeline.part import late
from ssl_pipeline.pretext.any_views import VIEWS_OF, AnyViews, suited
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
pd = late("pandas")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor, nn

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.encoders.settings import EncoderPart as Encoder


class JointEmbedding(PretextTask):
    """Base of tasks on `views_per_image` views of one kind."""

    kinds: ClassVar[tuple[str, ...]] = tuple(VIEWS_OF)
    views: AnyViews | None = None
    """By default those that suit the kind of encoder."""
    image_views: ClassVar[Views] = Views()
    views_per_image: ClassVar[int] = 2
    encoder_passes: ClassVar[int] = 2

    def fitted(self, encoder: Encoder) -> Self:
        views = suited(self.views, encoder.kind, "views", self.image_views)
        return self.model_copy(update={"views": views})

    def draw(self, count: int, encoder: Encoder, generator: Generator) -> Labels:
        """Parameters of the views of a sample, `[count, views, ...]`."""
        assert self.views is not None
        return self.views.draw((count, self.views_per_image), generator)

    def render(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> Any:
        """`[batch, channels, side, side]` -> `[views * batch, ...]`: all first views, then all second ones, and so on."""
        assert self.views is not None
        return self.views.render(images, labels)

    def table(self, labels: Labels) -> DataFrame:
        columns: dict[str, Any] = {}
        for name, value in labels.items():
            for view in range(value.shape[1]):
                one = value[:, view]
                columns[f"view{view}_{name}"] = list(one.flatten(1).numpy()) if one.ndim > 1 else one.numpy()
        return pd.DataFrame(columns)

    def picture(self, encoder: EncoderModule, images: Tensor, labels: Labels) -> Tensor:
        seen = torch.from_numpy(
            encoder.sketch(torch.cat([images, self.render(encoder, images, labels).to(images.dtype)]))
        )
        return seen.unflatten(0, (-1, len(images))).transpose(0, 1)

    def columns(self) -> list[str]:
        return ["image", *(f"view {i + 1}" for i in range(self.views_per_image))]


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, batch norm and ReLU between them."""
    nn, layers = torch.nn, []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def follow(teacher: nn.Module, student: list[nn.Module], momentum: float, progress: float) -> None:
    """Moves a teacher's weights towards the student's: an exponential moving average in fp32 whose momentum rises to 1 along
    half a cosine over the run (Grill et al. 2020, section 3.3). The teacher's batch norms keep statistics of their own."""
    momentum = 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2
    weights = [weight for module in student for weight in module.parameters()]
    with torch.no_grad():
        torch._foreach_lerp_(list(teacher.parameters()), weights, 1 - momentum)
