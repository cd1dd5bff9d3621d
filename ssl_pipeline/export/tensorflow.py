"""A SavedModel that TensorFlow runs by itself, for any number of samples: the operations are XLA's, the signature
`serving_default`, preprocessing inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", ("tensorflow", "torchax", "jax"), "tensorflow"
TOLERANCE = 1e-4

ANSWER = """\
import sys

import numpy


class Absent:  # who opens it may have neither
    def find_spec(self, name, *rest):
        if name in ("jax", "torch"):
            raise ModuleNotFoundError(f"no {name} here")


sys.meta_path.insert(0, Absent())
code, given, answered, takes, *gives = sys.argv[1:]
answers = {}
for batch, samples in numpy.load(given).items():
    scope = {takes: samples.tolist() if samples.dtype.kind == "U" else samples}
    exec(code, scope)
    answers |= {f"{name}.{batch}": numpy.asarray(scope[name]) for name in gives}
numpy.savez(answered, **answers)
"""


def write(found: Registered, output: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(found.deployed, (found.deployed.example(2),), dynamic_shapes=({0: batch},))
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(program, Path(folder, "program.pt2"))
        converted = ["-m", "ssl_pipeline.export.tensorflow_convert", f"{folder}/program.pt2", str(output)]
        python(found, "tensorflow", converted)


def compare(found: Registered, output: Path) -> Compared:
    from ssl_pipeline.export.export import BATCHES, deployed_pairs

    given = [found.deployed.example(batch).numpy() for batch in BATCHES]
    answers = answered(found, "tensorflow", opens(found, str(output)), "stored", given, ["embeddings"])
    by_size = {len(embeddings): embeddings for (embeddings,) in answers}

    def answer(stored: Tensor) -> Tensor:
        return by_size[len(stored)]

    yield from deployed_pairs(found, answer)


def answered(
    found: Registered, format: str, code: str, takes: str, values: list[Any], gives: list[str]
) -> list[list[Tensor]]:
    """What the variables `gives` are after the code, for each of the values of the variable that it `takes`, in a process that has
    neither JAX nor torch. Raises PipelineError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", *values)
        python(found, format, ["-c", ANSWER, code, f"{folder}/given.npz", f"{folder}/answered.npz", takes, *gives])
        there = np.load(f"{folder}/answered.npz")
        return [[torch.from_numpy(there[f"{name}.arr_{n}"]) for name in gives] for n in range(len(values))]


def python(found: Registered, format: str, arguments: list[str]) -> None:
    """Runs it in another process. Raises PipelineError where it fails, with the error, or else the last thing, that it said."""
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | quiet, check=False
    )
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"ended with status {ran.returncode}"]
        said = next((line for line in reversed(lines) if re.match(r"[\w.]+Error: ", line)), lines[-1])
        raise found.refuse(format, f"{said[:300]}; choose another format")


def opens(found: Registered, path: str) -> str:
    return f"""\
import tensorflow

model = tensorflow.saved_model.load({path!r})
embeddings = model.signatures["serving_default"](stored=tensorflow.constant(stored))["embeddings"]
"""
