"""dataset -> pretext labels and training pack. One file a task; to add one, import it here."""

from collections.abc import Iterable

from ssl_pipeline.pretext.byol import BYOL as BYOL
from ssl_pipeline.pretext.clip import CLIP as CLIP
from ssl_pipeline.pretext.clip_order import ClipOrder as ClipOrder
from ssl_pipeline.pretext.dino import DINO as DINO
from ssl_pipeline.pretext.frame_order import FrameOrder as FrameOrder
from ssl_pipeline.pretext.inpainting import Inpainting as Inpainting
from ssl_pipeline.pretext.lejepa import LeJEPA as LeJEPA
from ssl_pipeline.pretext.masked_items import MaskedItems as MaskedItems
from ssl_pipeline.pretext.masked_language import MaskedLanguage as MaskedLanguage
from ssl_pipeline.pretext.masked_patches import MaskedPatches as MaskedPatches
from ssl_pipeline.pretext.next_item import NextItem as NextItem
from ssl_pipeline.pretext.rotation import Rotation as Rotation
from ssl_pipeline.pretext.siglip import SigLIP as SigLIP
from ssl_pipeline.pretext.simclr import SimCLR as SimCLR
from ssl_pipeline.pretext.simcse import SimCSE as SimCSE
from ssl_pipeline.pretext.task import PretextTask as PretextTask
from ssl_pipeline.pretext.text_crops import TextCrops as TextCrops
from ssl_pipeline.pretext.vicreg import VICReg as VICReg


def leaves(base: type[PretextTask]) -> list[type[PretextTask]]:
    """Every task that a recipe can name: the classes that have a `task` of their own."""
    below = [leaf for one in base.__subclasses__() for leaf in leaves(one)]
    return [base, *below] if "task" in base.__annotations__ and base is not PretextTask else below


def names_of(tasks: Iterable[type[PretextTask]]) -> list[str]:
    """As a recipe writes them."""
    return [task.model_fields["task"].default for task in tasks]


TASKS = tuple(leaves(PretextTask))
