"""One ONNX file: stored numbers in, embeddings out, preprocessing inside, for any number of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_pipeline.export.export import Compared, Registered

SUFFIX, NEEDS, EXTRA = ".onnx", ("onnx", "onnxscript", "onnxruntime"), "export"
TOLERANCE = 1e-4


def write(found: Registered, output: Path) -> None:
    import torch

    try:
        program = torch.onnx.export(
            found.deployed, (found.deployed.example(2),), dynamo=True, verbose=False,
            input_names=[found.deployed.takes], output_names=["embeddings"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise found.refuse("onnx", f"{' '.join(str(error).split())[:300]}; choose another format") from error
    assert program is not None
    program.model.metadata_props["source"] = found.uri
    program.save(output, external_data=False)


def compare(found: Registered, output: Path) -> Compared:
    import onnx
    import onnxruntime

    from ssl_pipeline.export.export import deployed_pairs

    onnx.checker.check_model(str(output))
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    yield from deployed_pairs(found, lambda stored: session.run(None, {found.deployed.takes: stored.numpy()})[0])


def opens(found: Registered, path: str) -> str:
    return f"""\
import onnxruntime

session = onnxruntime.InferenceSession({path!r})
(embeddings,) = session.run(None, {{{found.deployed.takes!r}: stored}})
"""
