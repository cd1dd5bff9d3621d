from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ssl_pipeline.export import transformers as form
from ssl_pipeline.export.export import form_of, write
from tests.export.conftest import TEXTS
from tests.export.kinds import KINDS

KINDS_OF_TEXT = {
    "bert": KINDS["bert"],
    "cls": KINDS["bert"] | {"pooling": "cls"},
    "modernbert": KINDS["modernbert"] | {"layers": 4, "length": 200},  # longer than its window of attention
    "image_text": KINDS["image_text"],
}


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_transformers_alone_gives_the_same_embedding(kind, registered, tmp_path) -> None:
    found = registered(**KINDS_OF_TEXT[kind])
    assert write(form_of("transformers"), found, "transformers", tmp_path / "model") <= form.TOLERANCE
    before = f"import sys\nimport torch\ntexts = {TEXTS!r}\n"
    after = "assert 'ssl_pipeline' not in sys.modules\ntorch.save(embeddings, 'embeddings.pt')\n"
    code = before + form.opens(found, "model") + after
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    encoder = form.text_in(found)
    tokens = form.tokenized(encoder, TEXTS)
    each = torch.stack([encoder(row[row != encoder.special["pad"]][None])[0] for row in tokens])
    torch.testing.assert_close(torch.load(tmp_path / "embeddings.pt"), each.detach(), rtol=1e-4, atol=1e-5)
