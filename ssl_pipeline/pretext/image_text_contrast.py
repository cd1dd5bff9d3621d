"""What tasks that match images with captions share: a view of the image, one of its captions, and two towers to compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ssl_pipeline.part import late
from ssl_pipeline.pretext.task import Labels, PretextTask
from ssl_pipeline.pretext.views import Views

torch = late("torch")
pd = late("pandas")
pairs = late("ssl_pipeline.pretext.pair_losses")

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor

    from ssl_pipeline.encoders.encoder import Encoder as EncoderModule
    from ssl_pipeline.encoders.settings import EncoderPart as Encoder


class ImageTextContrast(PretextTask):
    """Base of tasks on pairs of an image and a caption."""

    kinds: ClassVar[tuple[str, ...]] = ("image_text",)
    encoder_passes: ClassVar[int] = 1
    compares_samples: ClassVar[bool] = True
    """And as many through the text tower."""
    views: Views = Views(min_scale=0.5, color=0.2, flip=False, blur=False)
    """What happens to the image. Captions name colours and directions, so these are changed little or not at all; `flip: true`
    suits photographs."""

    def draw(self, count: int, encoder: Encoder, generator: Generator) -> Labels:
        """The view's parameters, and `caption [count]` in 0..1: which of an image's captions, as a share of their number."""
        return {"caption": torch.rand(count, generator=generator), **self.views.draw((count,), generator)}

    def table(self, labels: Labels) -> DataFrame:
        columns = {name: list(v.flatten(1).numpy()) if v.ndim > 1 else v.numpy() for name, v in labels.items()}
        return pd.DataFrame(columns)

    def render(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> Any:
        """`images [batch, channels, side, side]`, `tokens [batch, captions, length]` and `count [batch]` of captions that are
        real -> `images` as views, and `tokens [batch, length]`."""
        drawn = {name: value for name, value in labels.items() if name != "caption"}
        count = inputs["count"].long()
        which = torch.minimum((labels["caption"] * count).long(), count - 1)
        tokens = inputs["tokens"].gather(1, which.view(-1, 1, 1).expand(-1, 1, inputs["tokens"].shape[2]))
        return {"images": self.views.render(inputs["images"], drawn), "tokens": tokens[:, 0]}

    def step(self, encoder: Any, head: Any, views: Any, labels: Labels) -> dict[str, Any]:
        image, text = encoder(views), encoder.text(views["tokens"])  # [batch, dim] each
        loss, accuracy = self.compare(image, text, pairs.key_of(views["tokens"]), head)
        scale = head.log_scale.detach().exp().squeeze()
        return {"loss": loss, "accuracy": accuracy, "scale": scale, "embedding": image}

    def compare(self, image: Tensor, text: Tensor, key: Tensor, head: Any) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a batch of pairs."""
        raise NotImplementedError

    def picture(self, encoder: EncoderModule, inputs: Any, labels: Labels) -> Tensor:
        return torch.stack([inputs["images"], self.render(encoder, inputs, labels)["images"]], dim=1)

    def columns(self) -> list[str]:
        return ["image", "view"]

    def row_titles(self, encoder: Any, inputs: Any, labels: Labels) -> list[str]:
        """The drawn captions, as the text tower reads them."""
        return encoder.read_out(self.render(encoder, inputs, labels)["tokens"])
