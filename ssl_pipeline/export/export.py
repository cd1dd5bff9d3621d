"""A registered encoder in a form that another runtime opens: written aside, compared there with the encoder, then named.

A form is a module of this package, named as `--format` names it, with the names of `Form`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ssl_pipeline import tracking
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.encoders.settings import EncoderPart
from ssl_pipeline.export.deployed import DeployedEncoder
from ssl_pipeline.part import PipelineError, did_you_mean
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker

FORMATS = ("safetensors", "onnx", "timm", "transformers", "torchvision", "tensorflow", "keras_hub")
BATCHES = (1, 2, 5)
"""Sizes of the batches that are compared."""


@dataclass(frozen=True)
class Registered:
    """What a registered version has for an export."""

    uri: str
    """models:/NAME/VERSION"""
    folder: Path
    """What was registered beside the model."""
    encoder: Encoder

    @cached_property
    def settings(self) -> EncoderPart:
        return encoders.settings_in(self.folder)

    @cached_property
    def deployed(self) -> DeployedEncoder:
        return DeployedEncoder(self.encoder)

    def refuse(self, format: str, why: str) -> PipelineError:
        return PipelineError(f"{self.uri} cannot be exported as {format}: {why}")


Compared = Iterator[tuple[str, Tensor, Tensor]]
"""What is compared, the encoder's own numbers, and the other runtime's."""


class Form(Protocol):
    """What a module of a format has."""

    SUFFIX: str
    """Of the file; empty where it is a folder."""
    NEEDS: tuple[str, ...]
    """Packages that come with the extra EXTRA."""
    EXTRA: str
    TOLERANCE: float
    """Largest difference that is allowed, as a share of the largest number."""

    def write(self, found: Registered, output: Path) -> None:
        """Raises PipelineError for an encoder that has no such form."""

    def compare(self, found: Registered, output: Path) -> Compared:
        """Opens what was written with the other runtime."""

    def opens(self, found: Registered, path: str) -> str:
        """The code that opens it there."""


def export(project: Project, uri: str, format: str, output: Path, say: Callable[[str], None]) -> Path:
    """Writes the registered encoder `uri` (a model's name means its champion) as `output`, once the other runtime was seen to
    give the same numbers.

    Raises PipelineError for an unknown format or model, an encoder that has no such form, packages that are not installed, an
    output that exists already, and numbers that differ.
    """
    form = form_of(format)
    if form.SUFFIX and output.suffix != form.SUFFIX:
        raise PipelineError(f"{output}: {format} is a file: name one that ends in {form.SUFFIX}")
    refuse_to_overwrite(output)
    tracker = open_tracker(project)
    with tracking.downloaded(tracker, uri) as (version, path):
        folder = path / "extra_files"
        found = Registered(f"models:/{version.name}/{version.version}", folder, encoders.load(folder))
        say(f"{found.uri}: writing and comparing as {format}")
        difference = write(form, found, format, output)
        say(f"{output}: differs by {difference:.1e} of the largest number at most ({form.TOLERANCE:.0e} are allowed)")
        say(form.opens(found, str(output)))
    return output


def form_of(format: str, installed: bool = True) -> Form:
    """Raises PipelineError where there is none, or where its packages ought to be `installed` and are not."""
    if format not in FORMATS:
        raise PipelineError(f"there is no format {format!r} among {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}")
    form = cast(Form, import_module(f"ssl_pipeline.export.{format}"))
    if installed and (missing := [name for name in form.NEEDS if importlib.util.find_spec(name) is None]):
        raise PipelineError(
            f"export as {format} needs {', '.join(missing)}: install them with pip install 'ssl_pipeline[{form.EXTRA}]'"
        )
    return form


def write(form: Form, found: Registered, format: str, output: Path) -> float:
    """Writes aside, compares, and gives the output its name. Returns the largest difference, as a share."""
    with aside(output) as fresh, torch.inference_mode():
        form.write(found, fresh)
        if fresh.is_dir():
            (fresh / "README.md").write_text(readme(found, format, form.opens(found, output.name)))
        largest = 0.0
        for what, ours, theirs in form.compare(found, fresh):
            if ours.shape != theirs.shape:
                raise found.refuse(format, f"{what} is {list(ours.shape)} here and {list(theirs.shape)} there")
            difference = ((theirs - ours).abs().max() / ours.abs().max()).item()
            if not difference <= form.TOLERANCE:  # so that no NaN passes
                raise found.refuse(
                    format, f"{what} differs there by {difference:.1e} of its largest number, and {form.TOLERANCE:.0e} are "
                    "allowed; choose another format",
                )  # fmt: skip
            largest = max(largest, difference)
    return largest


@contextmanager
def aside(output: Path) -> Iterator[Path]:
    """A place beside `output`, which becomes `output` in one step where nothing is raised."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            yield folder / output.name
            refuse_to_overwrite(output)
            os.rename(folder / output.name, output)
        finally:
            shutil.rmtree(folder)
    except OSError as error:
        raise PipelineError(f"cannot write {output}: {error.strerror}; choose another place with -o") from error


def refuse_to_overwrite(output: Path) -> None:
    if os.path.lexists(output):
        raise PipelineError(f"{output} exists already: delete it or choose another place with -o")


def deployed_pairs(found: Registered, answer: Callable[[Tensor], Any]) -> Compared:
    """Compares embeddings of random stored samples, in batches of several sizes."""
    for batch in BATCHES:
        stored = found.deployed.example(batch)
        yield f"the embedding of a batch of {batch}", found.deployed(stored), torch.as_tensor(answer(stored))


def readme(found: Registered, format: str, opens: str) -> str:
    """Of a folder."""
    stored = found.deployed.example(1)
    takes = (
        f"`{found.encoder.takes}`, {str(stored.dtype).removeprefix('torch.')} {['batch', *stored.shape[1:]]}".replace(
            "'", ""
        )
    )
    return (
        f"# {found.uri} as {format}\n\nAn encoder of {found.settings.kind}, registered with {takes}, for an embedding of "
        f"{found.encoder.dim} numbers.\n\n```python\n{opens}```\n"
    )
