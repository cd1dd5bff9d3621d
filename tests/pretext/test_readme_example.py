"""The README's example of a new pretext task is real: it is cut out, registered as it says, and trained."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys, tempfile; from pathlib import Path
import ssl_pipeline.pretext as pretext
import importlib.util
spec = importlib.util.spec_from_file_location("ssl_pipeline.pretext.flip", sys.argv[1])
module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module
spec.loader.exec_module(module)
pretext.TASKS = tuple(pretext.leaves(pretext.PretextTask))  # what its line of registration does at import
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.labels import sheet, write_table
from ssl_pipeline.pretrain.loop import pretrain
recipe = Recipe.model_validate({
    "name": "flips", "dataset": "tiny", "pretext": {"task": "flip"},
    "encoder": {"backbone": "resnet18", "image_size": 16, "options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}},
    "pretrain": {"epochs": 3, "batch_size": 50, "learning_rate": 3e-3},
})
pack, folder = Pack(Path(sys.argv[2]), {'channels': 1, 'mean': [0.3], 'std': [0.37]}), Path(tempfile.mkdtemp())
print(write_table(recipe, pack, folder / "labels.parquet")["balance"])
assert sheet(recipe, build(recipe.encoder, pack.facts), pack)[0].shape == (8, 2, 1, 16, 16)
print("loss", pretrain(recipe, pack, folder, lambda row: None)[1]["final_loss"])
"""


def test_the_readmes_task_works(digits_pack, tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    example = next(block for block in blocks if "class Flip" in block)
    file = tmp_path / "flip.py"
    file.write_text(example)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), str(digits_pack.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'mirrored'" in done.stdout
    assert float(done.stdout.split("loss")[1]) < math.log(2)
