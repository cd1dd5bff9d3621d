"""What Dagster says of a `defs.yaml` with a fault: file, line, cure. In a project of its own that uses our components."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_pipeline.orchestration import project_definitions

ROOT = Path(__file__).parents[2]

GOOD = """\
type: ssl_pipeline.Dataset
attributes:
  name: cats
  source: {kind: image_folder, path: images}
---
type: ssl_pipeline.Pretraining
attributes:
  name: cats_simclr
  dataset: cats
  encoder:
    backbone: resnet18
    image_size: 32
  pretext: {task: simclr}
  pretrain:
    epochs: 20
    batch_size: 64
"""

DEFINITIONS = """\
from pathlib import Path
import dagster as dg
from ssl_pipeline.orchestration import project_definitions

@dg.definitions
def defs():
    return project_definitions.load(Path(__file__).parent)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A dg project `lab`; its defs.yaml is the returned path."""
    package = tmp_path / "lab"
    (package / "defs" / "cats").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "lab"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "lab"\n[tool.dg.cli]\n'
        'suppress_warnings = ["project_and_activated_venv_mismatch"]\n'
    )
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    file = package / "defs" / "cats" / "defs.yaml"
    file.write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    importlib.invalidate_caches()
    yield file
    for name in [m for m in sys.modules if m == "lab" or m.startswith("lab.")]:
        del sys.modules[name]


def causes(error: BaseException | None) -> str:
    texts = []
    while error:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_two_documents_in_one_file(lab: Path) -> None:
    graph = project_definitions.load(lab.parent).resolve_asset_graph()
    assert {"/".join(k.path) for k in graph.get_all_asset_keys()} >= {"cats/dataset", "cats_simclr/registered_model"}


@pytest.mark.parametrize(
    ("right", "wrong", "line", "words"),
    [
        ("batch_size", "batchsize", 16, "attributes.pretrain.batchsize"),
        ("epochs: 20", "epochs: twenty", 15, "valid integer"),
        (
            "epochs: 20",
            "epochs: 1\n    warmup_epochs: 1",
            14,
            "warmup_epochs 1 must be shorter than epochs 1: lower it to 0.1",
        ),
        ("backbone: resnet18", "backbone: resnet81", 11, "timm has no model 'resnet81'; did you mean 'resnet18'"),
        ("kind: image_folder", "kind: folder", 4, "'image_folder'"),
    ],
)
def test_fault_has_its_line_and_cure(lab: Path, right: str, wrong: str, line: int, words: str) -> None:
    lab.write_text(GOOD.replace(right, wrong))
    with pytest.raises(Exception) as refused:
        project_definitions.load(lab.parent)
    assert f"{lab}:{line}" in causes(refused.value) and words in causes(refused.value)


def dg(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("dg")), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_dg_lists_scaffolds_and_checks(lab: Path) -> None:
    folder = lab.parents[3]
    listed = dg("list", "components", folder=folder).stdout
    assert "ssl_pipeline.Dataset" in listed and "ssl_pipeline.Pretraining" in listed
    for kind, name in (("Dataset", "dogs"), ("Pretraining", "cats_rotation")):
        made = dg("scaffold", "defs", f"ssl_pipeline.{kind}", name, folder=folder)
        assert made.returncode == 0, made.stderr
    for what in ("yaml", "defs"):
        checked = dg("check", what, folder=folder)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "cats_rotation" in dg("list", "defs", folder=folder).stdout
    lab.write_text(GOOD.replace("epochs: 20", "epochs: 1\n    warmup_epochs: 1"))
    refused = dg("check", "defs", folder=folder)
    assert refused.returncode == 1 and f"{lab}:14" in refused.stdout + refused.stderr
    lab.write_text(GOOD.replace("batch_size", "batchsize"))
    (lab.parents[1] / "cats_rotation" / "defs.yaml").unlink()
    shown = dg("check", "yaml", folder=folder)
    assert shown.returncode == 1 and f"{lab}:16" in shown.stdout
