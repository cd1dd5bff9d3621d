from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pipeline.export import keras_hub as form
from ssl_pipeline.export import transformers
from ssl_pipeline.export.export import Registered, form_of, write
from ssl_pipeline.export.transformers_vit import plain_vit_in
from ssl_pipeline.part import PipelineError
from tests.export.conftest import TEXTS
from tests.export.kinds import KINDS
from tests.export.test_transformers_vit import VITS

missing = [name for name in form.NEEDS if importlib.util.find_spec(name) is None]
needs_keras_hub = pytest.mark.skipif(
    bool(missing), reason=f"{', '.join(missing)} of the extra tensorflow is not installed"
)


@needs_keras_hub
@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_keras_hub_alone_gives_a_berts_embedding(pooling, registered, tmp_path) -> None:
    found = registered(**KINDS["bert"] | {"pooling": pooling})
    assert write(form_of("keras_hub"), found, "keras_hub", tmp_path / "model") <= form.TOLERANCE
    encoder = transformers.text_in(found)
    tokens = transformers.tokenized(encoder, TEXTS)
    each = torch.cat([encoder(row[row != encoder.special["pad"]][None]) for row in tokens])
    there = embeddings_in_tensorflow(f"texts = {TEXTS!r}\n{form.opens(found, 'model')}", tmp_path)
    np.testing.assert_allclose(there, each.detach(), rtol=1e-4, atol=1e-5)
    transformers_opens_it_too(found, tmp_path / "model")


@needs_keras_hub
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_keras_hub_alone_gives_a_vits_embedding(kind, registered, tmp_path) -> None:
    found = registered(**VITS[kind])
    assert write(form_of("keras_hub"), found, "keras_hub", tmp_path / "model") <= form.TOLERANCE
    network = plain_vit_in(found, "keras_hub")
    pictures = network.inputs(2)
    np.save(tmp_path / "pictures.npy", pictures.permute(0, 2, 3, 1))
    there = embeddings_in_tensorflow(f"pictures = numpy.load('pictures.npy')\n{form.opens(found, 'model')}", tmp_path)
    np.testing.assert_allclose(there, network.encoder(pictures).detach(), rtol=1e-4, atol=1e-5)
    transformers_opens_it_too(found, tmp_path / "model")


def embeddings_in_tensorflow(code: str, folder: Path) -> np.ndarray:
    """What the code makes, in a process into which neither torch nor this package comes."""
    end = "numpy.save('embeddings.npy', embeddings)\nassert not {'torch', 'ssl_pipeline'} & set(sys.modules)\n"
    subprocess.run(
        [sys.executable, "-c", f"import sys\nimport numpy\n{code}{end}"], cwd=folder, check=True,
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    return np.load(folder / "embeddings.npy")


def transformers_opens_it_too(found: Registered, folder: Path) -> None:
    with torch.inference_mode():
        for _, ours, theirs in transformers.compare(found, folder):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("modernbert", "KerasHub reads BERT, and this is a ModernBERT; choose transformers, tensorflow or onnx"),
        ("resnet", "resnet18 is no ViT; choose timm, onnx or safetensors"),
    ],
)
def test_what_keras_hub_does_not_read_is_refused(kind, reason, registered, tmp_path) -> None:
    with pytest.raises(PipelineError, match=f"models:/tiny/1 cannot be exported as keras_hub: {reason}"):
        write(form_of("keras_hub", installed=False), registered(**KINDS[kind]), "keras_hub", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra_files"]
