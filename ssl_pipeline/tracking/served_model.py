"""A registered encoder that takes what people have: image and sound files as base64, and strings.

Not imported but run by MLflow, as models from code are: `served.py` copies this file and those of ingestion that it imports
under another name, so that the model decodes as the pipeline does, without the pipeline.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from ssl_pipeline.ingest.item import BadSample

BATCH = 64
"""Samples that are embedded at a time, however many a request has."""

Row = Mapping[str, Any]
Read = Callable[[Row], np.ndarray]
"""A request's row -> the sample as the encoder takes it. Raises BadSample with the reason."""


class Served(PythonModel):
    """Columns `image` (and `shape`), `audio` or `text` -> column `embedding`."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["encoder"])
        self.encoder = mlflow.pytorch.load_model(str(folder))
        takes = Model.load(str(folder)).signature.inputs.inputs[0]
        self.dtype = takes.type
        about = json.loads((folder / "extra_files" / "encoder.json").read_text())
        self.read = READERS[about["encoder"]["kind"]](about, takes.shape[1:])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows: list[Any] = model_input.to_dict("records")
        found: list[list[float]] = []
        for start in range(0, len(rows), BATCH):
            samples = []
            for number, row in enumerate(rows[start : start + BATCH], start=start):
                try:
                    samples.append(self.read(row))
                except BadSample as reason:
                    raise MlflowException(f"row {number}: {reason}", INVALID_PARAMETER_VALUE) from reason
            with torch.inference_mode():
                found += self.encoder(torch.from_numpy(np.stack(samples).astype(self.dtype))).tolist()
        return pd.DataFrame({"embedding": found})


def image_reader(about: dict[str, Any], shape: tuple[int, ...]) -> Read:
    images = import_module("ssl_pipeline.ingest.images")
    channels, side, _ = shape

    def read(row: Row) -> np.ndarray:
        data, pixels = bytes_in(row, "image"), row.get("shape")
        image = unpacked(data, pixels) if isinstance(pixels, list | np.ndarray) else images.decode(data)
        return images.to_square(image, side, channels)

    return read


def unpacked(data: bytes, shape: Any) -> Any:
    """An image of plain uint8 pixels, row by row: `[height, width]` or `[height, width, 1 or 3]`."""
    image = import_module("PIL.Image")
    sides = [int(n) for n in shape]
    if len(sides) not in (2, 3) or min(sides) < 1 or sides[2:] not in ([], [1], [3]):
        raise BadSample(f"shape {sides} is none of an image: give [height, width] or [height, width, 1 or 3]")
    if len(data) != (needed := int(np.prod(sides, dtype=object))):
        raise BadSample(f"image has {len(data):,} bytes where shape {sides} needs {needed:,} of uint8")
    return image.fromarray(np.frombuffer(data, np.uint8).reshape(sides[:2] if sides[2:] == [1] else sides))


def audio_reader(about: dict[str, Any], shape: tuple[int, ...]) -> Read:
    audio = import_module("ssl_pipeline.ingest.audio")
    rate = about["encoder"]["sample_rate"]
    return lambda row: audio.waveform(bytes_in(row, "audio"), rate, shape[0])


def text_reader(about: dict[str, Any], shape: tuple[int, ...]) -> Read:
    texts = import_module("ssl_pipeline.ingest.text")
    tokenizer = import_module("tokenizers").Tokenizer.from_str(about["facts"]["tokenizer"])
    special, (length,) = about["facts"]["special"], shape

    def read(row: Row) -> np.ndarray:
        text = texts.decode(string_in(row, "text").encode("utf-8", "surrogatepass"))
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: length - 2]
        tokens = np.full(length, special["pad"])
        tokens[: len(ids) + 2] = [special["cls"], *ids, special["sep"]]
        return tokens

    return read


READERS: dict[str, Callable[[dict[str, Any], tuple[int, ...]], Read]] = {
    "image": image_reader, "image_text": image_reader, "audio": audio_reader, "text": text_reader,
}  # fmt: skip
"""By the encoder's kind: what `encoder.json` says and the shape of a sample -> how a row is read."""


def bytes_in(row: Row, column: str) -> bytes:
    """Base64, with or without line breaks."""
    text = string_in(row, column)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample(f"{column} is not base64 ({error}): encode the file's bytes") from error


def string_in(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise BadSample(f"{column} is {'missing' if value is None else type(value).__name__} and not a string")
    return value


set_model(Served())
