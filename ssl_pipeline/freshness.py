"""Is there something new to learn from? What samples an encoder has not seen, and whether they have moved."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from ssl_pipeline import chain
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.features import extract
from ssl_pipeline.features.drift import two_sample
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Arrays, take
from ssl_pipeline.pretrain.compute import pick_device
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.report import pictures
from ssl_pipeline.report.drift import drift as scores_picture
from ssl_pipeline.store import Stage

CODE_VERSION = "1"
SHOWN = 8


@lru_cache(32)
def samples_in(tree: Path) -> frozenset[str]:
    """Identities of all samples of a dataset version, which never changes."""
    return frozenset(
        i for shard in tree.glob("*-*.parquet") for i in pq.read_table(shard, columns=["sample_id"])[0].to_pylist()
    )


def unseen(project: Project, encoder: Stage, data: Stage) -> int:
    """How many samples of a dataset version the encoder's own version has not."""
    seen = chain.dataset_of(project, encoder.summary["made_from"]["dataset"])
    return len(samples_in(data.path / "tree") - (samples_in(seen.path / "tree") if seen else frozenset()))


def drift(project: Project, recipe: Recipe, say: chain.Say = print) -> Stage:
    """The stage `drift`: what the dataset has that the encoder's data had not, beside held-out samples that it had."""
    trained = chain.upstream(project, recipe.name, "pretrained_encoder")
    known = chain.upstream(project, recipe.name, "features")
    data, pack, origin = chain.prepared(project, recipe)
    inputs = {"features": known.key, "dataset": data.summary["digest"]}

    def write(folder: Path) -> dict[str, Any]:
        old = pd.read_parquet(known.path / "features.parquet", columns=["sample_id", "split", "embedding"])
        index = {split: pack.index(split)["sample_id"] for split in SPLITS}
        rows = {split: np.flatnonzero(~ids.isin(set(old["sample_id"]))) for split, ids in index.items()}
        new_samples = sum(map(len, rows.values()))
        held_out = np.stack(old.loc[old["split"] != "train", "embedding"].to_list())
        summary: dict[str, Any] = {"new_samples": new_samples, "old_samples": len(held_out)}
        if new_samples >= 4:
            encoder = encoders.load(trained.path).to(pick_device(recipe.pretrain.device))
            stored = {split: pack.samples(split) for split in SPLITS}
            fresh = [take(stored[split], rows[split]) for split in SPLITS if len(rows[split])]
            arrays: Arrays = {name: np.concatenate([part[name] for part in fresh]) for name in fresh[0]}
            new = extract.embed(encoder, arrays, recipe.pretrain)
            found = two_sample(held_out, new)
            summary |= {"p_value": found.p_value, "told_apart": found.accuracy}
            (folder / "scores.png").write_bytes(scores_picture(found.old_scores, found.new_scores, found.p_value))
            most = found.new[np.argsort(-found.new_scores)[:SHOWN]]
            least = found.new[np.argsort(found.new_scores)[: len(most)]]

            def shown(which: np.ndarray) -> Any:
                batch = {name: torch.from_numpy(array[which]).to(encoder.device) for name, array in arrays.items()}
                with torch.no_grad():
                    return encoder.show(batch)

            columns = [shown(most), shown(least)]
            sheet = (
                [list(row) for row in zip(*columns, strict=True)]
                if isinstance(columns[0], list)
                else np.stack(columns, 1)
            )
            (folder / "moved.png").write_bytes(pictures.sheet(sheet, ["new, unlike the old", "new, like the old"]))
        return summary | {"made_from": origin | {"features": known.key, "pretrained_encoder": trained.key}}

    stage = project.store.build("drift", {"recipe": recipe.name}, inputs, CODE_VERSION, write, on_wait=say)
    return chain.finish(project, recipe, stage)
