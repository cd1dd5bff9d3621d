"""coco and voc: where images with boxes around objects may come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssl_pipeline.ingest.source_files import FilePath, Listed


class Objects(Listed):
    """Images with boxes, in a folder or an archive (zip, tar, tar.gz, never unpacked). Encoders and pretext tasks take them as
    any other images; the boxes travel beside them, for detection. Boxes are in pixels of the image as it is stored upright.

    An object that only marks a region in which none is told apart (COCO's crowds, VOC's difficult ones) is kept as such: nothing
    is trained on it, and what is found in it counts neither way. An image with a damaged or unknown annotation is quarantined; a
    box is clipped to its image, and left out where nothing of it remains."""

    modality: ClassVar[str] = "image"
    medium: ClassVar[str] = "objects"
    images: FilePath | None = None
    """The folder inside the source where images are looked for; by default all of it."""
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Those there may be, by default whatever occurs: an image with another one is quarantined."""
    group: Annotated[str, Field(pattern=r"^\w[\w-]*(/\w[\w-]*)*$")] | None = None
    """Where an annotation names what never stands in two splits (a patient, a place): a key of an image's entry (COCO), an
    element of its XML file (VOC)."""

    @property
    def inside(self) -> dict[str, str | None]:
        return {**super().inside, "images": self.images, "annotations": getattr(self, "annotations", None)}


class Coco(Objects):
    """Images with one JSON file of annotations in COCO's form, or with one for each split that `train`, `validation` and `test`
    name. Images that it does not list are passed over; one that it lists without boxes holds no objects."""

    kind: Literal["coco"] = "coco"
    annotations: FilePath | None = None
    """The JSON file inside the source, where there is one for all; by default the only one there."""

    @model_validator(mode="after")
    def one_way(self) -> Self:
        if self.annotations and self.named:
            raise ValueError(
                "annotations is the one file for all splits, train, validation and test are one each: say either"
            )
        return self


class Voc(Objects):
    """Images with an XML file each in Pascal VOC's form, of the same name and anywhere in the source (as a rule `Annotations/`
    or beside them). `train`, `validation` and `test` are lists of these names, a line each, such as `ImageSets/Main/train.txt`;
    what none of them names is passed over, and so are images without an XML file."""

    kind: Literal["voc"] = "voc"
    first_pixel: Literal[0, 1] = 1
    """1: pixels count from 1 and the last one belongs to the box, as in VOC itself. 0: coordinates are edges, from 0."""
