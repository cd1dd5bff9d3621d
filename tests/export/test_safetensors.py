from __future__ import annotations

import pytest
import torch

from ssl_pipeline.export import safetensors as form
from ssl_pipeline.export.export import form_of, write
from tests.export.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_opens_as_the_encoder_that_it_is(kind, registered, tmp_path) -> None:
    found = registered(**KINDS[kind])
    (found.folder / "model_card.md").write_text("stays where it is")
    output = tmp_path / "model"
    assert write(form_of("safetensors"), found, "safetensors", output) == 0
    opened = {"stored": found.deployed.example(3)}
    exec(form.opens(found, str(output)), opened)
    assert torch.equal(opened["embeddings"], found.deployed(opened["stored"]))
    assert {path.name for path in output.iterdir()} == {"README.md", "encoder.json", "encoder.safetensors"}
    assert f"`{found.encoder.takes}`" in (output / "README.md").read_text()
