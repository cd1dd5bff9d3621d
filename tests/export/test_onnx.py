from __future__ import annotations

import numpy as np
import pytest

from ssl_pipeline.export import onnx as form
from ssl_pipeline.export.export import form_of, write
from tests.export.kinds import KINDS

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_the_encoders_embeddings(kind, registered, tmp_path) -> None:
    found = registered(**KINDS[kind])
    output = tmp_path / "model.onnx"
    assert write(form_of("onnx"), found, "onnx", output) < form.TOLERANCE
    stored = found.deployed.example(7)  # a batch that the export did not compare
    opened = {"stored": stored.numpy()}
    exec(form.opens(found, str(output)), opened)
    np.testing.assert_allclose(opened["embeddings"], found.deployed(stored), rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files", "model.onnx"]
