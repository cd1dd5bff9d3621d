from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from ssl_pipeline.export import tensorflow as form
from ssl_pipeline.export.export import form_of, write
from ssl_pipeline.part import PipelineError
from tests.export.kinds import KINDS

missing = [name for name in form.NEEDS if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} of the extra tensorflow is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_tensorflow_alone_gives_the_encoders_embeddings(kind, registered, tmp_path) -> None:
    found = registered(**KINDS[kind])
    assert write(form_of("tensorflow"), found, "tensorflow", tmp_path / "model") < form.TOLERANCE
    stored = found.deployed.example(7)  # a batch that the export did not compare
    np.save(tmp_path / "stored.npy", stored.numpy())
    before, after = (
        "import numpy\nstored = numpy.load('stored.npy')\n",
        "numpy.save('embeddings.npy', embeddings.numpy())\n",
    )
    subprocess.run([sys.executable, "-c", before + form.opens(found, "model") + after], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), found.deployed(stored), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "code, said",
    [
        ("raise ValueError('no such operation\\n\\t [[the graph]]')", "ValueError: no such operation"),
        ("import os, sys; print('out of', 'memory', file=sys.stderr, flush=True); os.abort()", "out of memory"),
        ("import os; os._exit(7)", "ended with status 7"),
    ],
)
def test_why_the_other_process_failed_is_the_reason(code, said, registered) -> None:
    found = registered(**KINDS["series"])
    with pytest.raises(PipelineError, match=f"cannot be exported as tensorflow: {said}; choose another"):
        form.python(found, "tensorflow", ["-c", code])
