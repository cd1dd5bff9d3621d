"""One head: the MNI152 template of 2009, the average of T1-weighted scans of 152 young adults at 1 mm, with maps of its grey and
white matter, inside nilearn (BSD; the template's terms allow use and copies with its notice: (C) 1993-2009 Louis Collins, McConnell
Brain Imaging Centre; Fonov et al. 2011, "Unbiased average age-appropriate atlases for pediatric studies"), read without importing
the package.

Images are axial slices, masks what each pixel most likely is. One slice is nearly its neighbour: splits are blocks of slices, with
slices in between that are left out. That is all of one averaged head: numbers say nothing of another.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import struct
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_pipeline.ingest.image_masks import Mask
from ssl_pipeline.ingest.item import BadSample, Item, Reading, read_file
from ssl_pipeline.part import PipelineError

PACKAGE = "nilearn"
VOLUMES = {part: f"mni_icbm152_{part}_tal_nlin_sym_09a_converted.nii.gz" for part in ("t1", "gm", "wm")}
CLASSES = ("background", "grey matter", "white matter")
BLOCK, GAP = 6, 3
"""Slices (millimetres) of a block, and between two."""
SPLITS = ("test", "train", "validation", "train")
"""Of blocks, in turn from the neck to the crown."""
LEAST = 0.02
"""Share of a slice that is brain."""


def read(name: str = "brain") -> Reading:
    """Slices of 197x233 pixels. Raises PipelineError where the package is missing."""
    return Reading(_slices(_folder()), frozenset(SPLITS))


def version(name: str) -> str:
    _folder()
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
    if folder is None or not all((folder / file).is_file() for file in VOLUMES.values()):
        raise PipelineError(f"demo brain: package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.14.1")
    return folder


def _slices(folder: Path) -> Iterator[Item]:
    head, grey, white = (_volume(folder / file) for file in VOLUMES.values())
    tissue = np.stack([255 - np.minimum(255, grey.astype(int) + white), grey, white]).argmax(0).astype(np.uint8)
    brain = (tissue > 0).mean((1, 2)) >= LEAST
    bottom, top = int(brain.argmax()), len(brain) - int(brain[::-1].argmax())
    for block, start in enumerate(range(bottom, top - BLOCK + 1, BLOCK + GAP)):
        for height in range(start, start + BLOCK):
            mask = Mask(partial(_png, tissue[height]), CLASSES)
            group, split = f"block_{block:02d}", SPLITS[block % len(SPLITS)]
            yield Item(
                f"mni152/{height:03d}.png", partial(_png, head[height]), group=group, split=split, extra={"mask": mask}
            )


def _volume(path: Path) -> np.ndarray:
    """uint8 `[height, front to back, left to right]`, the face upwards: a NIfTI-1 file is a header of 348 bytes, which says the
    sides (byte 40), the kind of number (70; 2 is uint8) and where the voxels begin (108), and then these."""
    try:
        data = gzip.decompress(read_file(path))
        sides, kind, start = (
            struct.unpack_from("<8h", data, 40),
            *struct.unpack_from("<h", data, 70),
            *struct.unpack_from("<f", data, 108),
        )
        if kind != 2 or sides[0] != 3:
            raise BadSample("not three-dimensional bytes")
        volume = np.frombuffer(data, np.uint8, int(np.prod(sides[1:4])), int(start)).reshape(sides[3:0:-1])
    except (BadSample, OSError, EOFError, ValueError, struct.error) as reason:
        raise PipelineError(f"demo brain: {path.name} cannot be read: {reason}; install {PACKAGE} again") from reason
    return volume[:, ::-1]


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
