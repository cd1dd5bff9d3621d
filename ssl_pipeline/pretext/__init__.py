"""dataset -> pretext labels and training pack. One file a task; to add one, import it here."""

from ssl_pipeline.pretext.inpainting import Inpainting as Inpainting
from ssl_pipeline.pretext.rotation import Rotation as Rotation
from ssl_pipeline.pretext.simclr import SimCLR as SimCLR
from ssl_pipeline.pretext.task import PretextTask as PretextTask

TASKS = tuple(PretextTask.__subclasses__())
