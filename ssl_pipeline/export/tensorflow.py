"""A SavedModel that TensorFlow runs by itself, for any number of samples: the operations are XLA's, the signature
`serving_default`, preprocessing inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = "", ("tensorflow", "torchax", "jax"), "tensorflow"
TOLERANCE = 1e-4

ANSWER = """\
import sys

import numpy

sys.modules["jax"] = sys.modules["torch"] = None  # neither can be imported: who opens it may have neither
code, given, answered = sys.argv[1:]
answers = {}
for batch, stored in numpy.load(given).items():
    exec(code)
    answers[batch] = embeddings.numpy()
numpy.savez(answered, **answers)
"""


def write(found: Registered, output: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(found.deployed, (found.deployed.example(2),), dynamic_shapes=({0: batch},))
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(program, Path(folder, "program.pt2"))
        python(found, ["-m", "ssl_pipeline.export.tensorflow_convert", f"{folder}/program.pt2", str(output)])


def compare(found: Registered, output: Path) -> Compared:
    """In a process that has TensorFlow and neither JAX nor torch."""
    import numpy as np

    from ssl_pipeline.export.export import BATCHES, deployed_pairs

    with tempfile.TemporaryDirectory() as folder:
        given, answered = f"{folder}/given.npz", f"{folder}/answered.npz"
        arrays: Any = {str(batch): found.deployed.example(batch).numpy() for batch in BATCHES}
        np.savez(given, **arrays)
        python(found, ["-c", ANSWER, opens(found, str(output)), given, answered])
        answers = {batch: torch.from_numpy(array) for batch, array in np.load(answered).items()}

    def answer(stored: Tensor) -> Tensor:
        return answers[str(len(stored))]

    yield from deployed_pairs(found, answer)


def python(found: Registered, arguments: list[str]) -> None:
    """Runs it in another process. Raises PipelineError with the last thing that it said where it fails."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    ran = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | quiet, check=False
    )
    if ran.returncode:
        said = (ran.stderr.strip().splitlines() or [f"ended with status {ran.returncode}"])[-1]
        raise found.refuse("tensorflow", f"{said[:300]}; choose another format")


def opens(found: Registered, path: str) -> str:
    return f"""\
import tensorflow

model = tensorflow.saved_model.load({path!r})
embeddings = model.signatures["serving_default"](stored=tensorflow.constant(stored))["embeddings"]
"""
