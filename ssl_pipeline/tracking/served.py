"""A registered model in the form that people can ask: an MLflow pyfunc for files and strings.

The registered model takes arrays. Around it stands a script (`served_model.py`, a model from code, no pickle) with the
files that ingestion decodes by, so that an answer is the pipeline's own embedding; this package is not needed to load it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version as installed
from pathlib import Path

from ssl_pipeline import ingest, tracking
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.record import open_tracker

COLUMN = {"image": "image", "image_text": "image", "audio": "audio", "text": "text"}
"""What is asked for, by the encoder's kind."""
NEEDS = {"image": ["pillow"], "audio": ["soundfile", "scipy"], "text": ["tokenizers"]}
"""What decodes a column, beside MLflow and what it needs itself."""
DECODING = ("item", "medium", "images", "audio", "text")
"""The files of `ssl_pipeline.ingest` that decode."""


def served(project: Project, uri: str, folder: Path) -> tracking.Version:
    """Writes an MLflow model into `folder`: a column `image`, `audio` or `text` in, a column `embedding` out.

    `image` and `audio` are base64 of a file; an image may also be base64 of uint8 pixels with their `shape` beside it.
    Raises PipelineError where the model is not registered or takes neither.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    tracker = open_tracker(project)
    with tracking.downloaded(tracker, uri) as (version, registered), tempfile.TemporaryDirectory() as scratch:
        kind = tracking.recorded(registered)["encoder"]["kind"]
        if kind not in COLUMN:
            raise PipelineError(
                f"{uri}: takes {kind}, of which there is no one file: serve it for arrays, with "
                f"`mlflow models serve -m models:/{version.name}/{version.version} --env-manager local`"
            )
        column = COLUMN[kind]
        takes = [ColSpec(DataType.string, column)]
        if column == "image":
            takes.append(ColSpec(Array(DataType.long), "shape", required=False))
        gives = [ColSpec(Array(DataType.float), "embedding")]
        script, code = copied(Path(scratch))
        with importable(code), warnings.catch_warnings():  # MLflow runs the script once as it saves it
            warnings.filterwarnings("ignore", ".*input example")
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                code_paths=[str(code)],
                artifacts={"encoder": str(registered)},
                signature=ModelSignature(Schema(takes), Schema(gives)),  # type: ignore[arg-type]
                # named, because MLflow would find them out by running the model in a process of its own
                pip_requirements=[
                    f"{name}=={installed(name).split('+')[0]}"
                    for name in ("mlflow", "torch", "numpy", "pandas", "pyarrow", *NEEDS[column])
                ],
                metadata={"model": f"models:/{version.name}/{version.version}"},
            )
    return version


def copied(scratch: Path) -> tuple[Path, Path]:
    """The script, and the package of what it imports, whose name is its content's: models of several releases can be loaded
    side by side."""
    files = {name: (Path(ingest.__file__).with_name(f"{name}.py")).read_text() for name in DECODING}
    package = f"decoding_{blake2b(json.dumps(files).encode(), digest_size=6).hexdigest()}"
    script, code = scratch / "served_model.py", scratch / package
    code.mkdir()
    (code / "__init__.py").touch()
    targets = {code / f"{name}.py": text for name, text in files.items()}
    targets[script] = Path(__file__).with_name("served_model.py").read_text()
    for path, text in targets.items():
        path.write_text(text.replace(ingest.__name__, package))
    return script, code


@contextmanager
def importable(code: Path) -> Iterator[None]:
    """This package can be imported, and is forgotten afterwards."""
    sys.path.insert(0, str(code.parent))
    try:
        yield
    finally:
        sys.path.remove(str(code.parent))
        for name in [name for name in sys.modules if name.partition(".")[0] == code.name]:
            del sys.modules[name]
