"""Is there something new to learn from? What samples an encoder has not seen, and whether they have moved."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from ssl_pipeline import origins
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.encoders.encoder import Encoder
from ssl_pipeline.features import extract
from ssl_pipeline.features.drift import two_sample
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.pretext.pack import Arrays, Pack, take
from ssl_pipeline.pretrain.compute import pick_device
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Recipe
from ssl_pipeline.report import pictures
from ssl_pipeline.report.drift import drift as scores_picture
from ssl_pipeline.store import Stage

CODE_VERSION = "2"
SHOWN = 8


@lru_cache(32)
def samples_in(tree: Path) -> frozenset[str]:
    """Identities of all samples of a dataset version, which never changes."""
    return frozenset(
        i for shard in tree.glob("*-*.parquet") for i in pq.read_table(shard, columns=["sample_id"])[0].to_pylist()
    )


def unseen(project: Project, encoder: Stage, data: Stage) -> int:
    """How many samples of a dataset version the encoder's own version has not."""
    seen = origins.dataset_of(project, encoder.summary["made_from"]["dataset"])
    return len(samples_in(data.path / "tree") - (samples_in(seen.path / "tree") if seen else frozenset()))


def drift(project: Project, recipe: Recipe, say: origins.Say = print) -> Stage:
    """The stage `drift`: what the dataset has that the encoder's data had not, beside held-out samples that it had."""
    known = origins.upstream(project, recipe.name, "features")
    trained = origins.made_from(project, known, "pretrained_encoder")
    data, pack, origin = origins.prepared(project, recipe)
    inputs = {"features": known.key, "dataset": data.summary["digest"]}

    def write(folder: Path) -> dict[str, Any]:
        old = pd.read_parquet(known.path / "features.parquet", columns=["sample_id", "split", "embedding"])
        now = pd.concat([pack.index(split)[["sample_id"]].assign(split=split) for split in SPLITS]).reset_index(
            names="row"
        )
        held_out, fresh = old[old["split"] != "train"], now[~now["sample_id"].isin(old["sample_id"])]
        summary: dict[str, Any] = {"new_samples": len(fresh), "old_samples": len(held_out)}
        if len(fresh) >= 4:
            encoder = encoders.load(trained.path).to(pick_device(recipe.pretrain.device))
            new = extract.embed(encoder, stored(pack, fresh), recipe.pretrain)
            found = two_sample(np.stack(held_out["embedding"].to_list()), new)
            summary |= {"p_value": found.p_value, "told_apart": found.accuracy}
            (folder / "scores.png").write_bytes(scores_picture(found.old_scores, found.new_scores, found.p_value))
            moved = fresh.iloc[found.new[np.argsort(-found.new_scores)[:SHOWN]]]
            usual = now[
                now["sample_id"].isin(held_out.iloc[found.old[np.argsort(found.old_scores)[:SHOWN]]]["sample_id"])
            ]
            (folder / "moved.png").write_bytes(beside(encoder, pack, moved, usual))
        return summary | {"made_from": origin | {"features": known.key, "pretrained_encoder": trained.key}}

    stage = project.store.build("drift", {"recipe": recipe.name}, inputs, CODE_VERSION, write, on_wait=say)
    return origins.finish(project, recipe, stage)


def stored(pack: Pack, rows: pd.DataFrame) -> Arrays:
    """Samples of a pack by their `split` and `row`, in the order of splits."""
    parts = [
        take(pack.samples(str(split)), some["row"].to_numpy()) for split, some in rows.groupby("split", sort=False)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def beside(encoder: Encoder, pack: Pack, new: pd.DataFrame, old: pd.DataFrame) -> bytes:
    """PNG of new samples beside old ones; of the latter some may be gone."""
    few = min(len(new), len(old)) or len(new)
    columns = []
    for rows in (new, old):
        if len(rows):
            arrays = {
                name: torch.from_numpy(part[:few]).to(encoder.device) for name, part in stored(pack, rows).items()
            }
            with torch.no_grad():
                columns.append(encoder.show(arrays))
    shown: Any = (
        [list(row) for row in zip(*columns, strict=True)] if isinstance(columns[0], list) else np.stack(columns, 1)
    )
    return pictures.sheet(shown, ["new, unlike the old", "old, unlike the new"][: len(columns)])
