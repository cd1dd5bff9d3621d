"""docs/export.md shows the code that the formats' tests run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ssl_pipeline.export.export import FORMATS, form_of
from tests.export.kinds import KINDS

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
SHOWN = [
    ("safetensors", "resnet", "digits"), ("onnx", "resnet", "digits.onnx"), ("timm", "vit", "digits_timm"),
    ("transformers", "bert", "news"), ("transformers", "vit", "digits_vit"), ("torchvision", "resnet", "cells_detector"),
    ("tensorflow", "resnet", "digits_tf"), ("keras_hub", "bert", "news_keras"), ("keras_hub", "vit", "digits_keras"),
]  # fmt: skip


def test_the_docs_show_every_format() -> None:
    assert {format for format, _, _ in SHOWN} == set(FORMATS)


@pytest.mark.parametrize("format, kind, path", SHOWN)
def test_the_docs_open_what_is_exported(format, kind, path, registered) -> None:
    form = form_of(format, installed=False)
    shown = [ast.dump(ast.parse(block)) for block in re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)]
    # as trees: the formatter has its own quotes and line breaks
    assert ast.dump(ast.parse(form.opens(registered(**KINDS[kind]), path))) in shown
    (row,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{format}` |"))
    assert f"| {form.TOLERANCE:g} |" in row
