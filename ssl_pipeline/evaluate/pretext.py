"""The pretext task itself on the test split: does what was learnt hold on data that nothing was trained or chosen on?

Labels are drawn anew several times; the interval is over these draws and the finite test split. Beside it stand chance, the
same network untrained, and controls that take something from the trained one and must fall to chance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ssl_pipeline.encoders.encoder import Batch, build, load_head
from ssl_pipeline.evaluate.classification import interval
from ssl_pipeline.evaluate.frame_order_controls import probes
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings import Pretext
from ssl_pipeline.pretext.labels import draw, trained_on
from ssl_pipeline.pretext.pack import Pack, rows_in, take
from ssl_pipeline.pretrain.compute import mixed_precision

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_video import VideoEncoder
    from ssl_pipeline.pretext.ordering import Ordering
    from ssl_pipeline.recipe import Recipe

BATCH = 64


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Pretext
) -> Result:
    """The trained encoder with its own head, and the task's controls of it."""
    head = load_head(recipe.pretext.build_head(encoder), folder)
    rows = rows_in(trained_on(recipe.pretext, pack, "test"))
    controls = {
        name: measured(recipe, pack, encoder, head, settings, change)
        for name, change in recipe.pretext.controls().items()
    }
    if recipe.encoder.kind == "video":
        train, test = (np.asarray(trained_on(recipe.pretext, pack, split)["clip"]) for split in ("train", "test"))
        found = probes(cast("Ordering", recipe.pretext), encoder, cast("VideoEncoder", recipe.encoder), train, test)
        controls["single frame"] = {settings.leading(): found["single frame"]}
    return Result(
        measured(recipe, pack, encoder, head, settings), controls=controls, facts={"test_samples": rows}
    )  # fmt: skip


def baselines(recipe: Recipe, pack: Pack, settings: Pretext, step: Callable[[str], None]) -> dict[str, Metrics]:
    step("random encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build(recipe.encoder.without_weights(), pack.given)
        head = recipe.pretext.build_head(encoder)
    found = {"random encoder": measured(recipe, pack, encoder.eval(), head.eval(), settings)}
    if (constant := recipe.pretext.collapse_loss(BATCH)) is not None:
        chance = float(np.exp(-constant))  # of K equally likely answers
        found["chance"] = {settings.leading(): {"mean": chance, "low": chance, "high": chance}}
    return found


@torch.inference_mode()
def measured(
    recipe: Recipe, pack: Pack, encoder: Any, head: Any, settings: Pretext, change: Callable[[Any], Any] | None = None
) -> Metrics:
    """Accuracy over the test split; `change` is what a control does to the views."""
    task, stored, device = recipe.pretext, trained_on(recipe.pretext, pack, "test"), encoder.device
    autocast = mixed_precision(recipe.pretrain, device)
    accuracies, rows = [], rows_in(stored)
    for number in range(settings.draws):
        labels = draw(task, recipe.encoder, rows, recipe.pretrain.seed, "test", number)
        right = 0.0
        for at in range(0, rows, BATCH):
            part = slice(at, min(at + BATCH, rows))
            batch: Batch = {name: torch.from_numpy(a).to(device) for name, a in take(stored, part).items()}
            asked = {name: value[part].to(device) for name, value in labels.items()}
            with autocast():
                views = task.render(encoder, encoder.read(batch), asked)
                out = task.step(encoder, head, change(views) if change else views, asked)
            right += float(out["accuracy"]) * (part.stop - part.start)
        accuracies.append(right / rows)
    return {settings.leading(): interval(accuracies, rows)}
