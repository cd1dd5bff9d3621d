"""Fine-tuning: the whole pretrained encoder with a linear layer, trained on few labels a class and on all.

The training is the supervised baseline's (`baselines.py`), with learning rates that fall from block to block towards the input
(Clark et al. 2020, ELECTRA, section 3.1; Bao et al. 2022, BEiT). Beside it stands that baseline: the same network from
scratch, on the same labels, with the same views and steps, its learning rate chosen among the same values.

Numbers are on the test split; the learning rate is the one that is best on validation with the first label subset.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from ssl_pipeline.evaluate.baselines import Classifier, Job, Training, fresh, trained_on_labels
from ssl_pipeline.evaluate.classification import Labels, Rows, labels_of, summarize
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings import FineTuning, named
from ssl_pipeline.pretext.pack import Pack

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, Any], folder: Path, settings: FineTuning
) -> Result:
    """The pretrained encoder, fine-tuned."""
    labels = labels_of(pack)
    starts = [Classifier(encoder, head(encoder.dim, len(labels.names), draw)) for draw in range(settings.draws)]
    rows, rates = tuned(recipe.name, recipe, pack, labels, settings, starts, settings.layer_decay, lambda said: None)
    metrics = summarize(pd.DataFrame(rows), len(labels.rows["test"]), settings.kind)[recipe.name]
    return Result(metrics, facts=labels.facts(settings) | {"learning_rates": rates})


def baselines(recipe: Recipe, pack: Pack, settings: FineTuning, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The same network from scratch."""
    labels = labels_of(pack)
    starts = [fresh(recipe, pack, len(labels.names), draw) for draw in range(settings.draws)]
    rows, _ = tuned("supervised", recipe, pack, labels, settings, starts, None, step)
    return summarize(pd.DataFrame(rows), len(labels.rows["test"]), settings.kind)


def head(dim: int, classes: int, draw: int) -> nn.Linear:
    """Small weights: the first steps see the encoder as it was pretrained."""
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        layer = nn.Linear(dim, classes)
        nn.init.trunc_normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layer


def tuned(
    method: str,
    recipe: Recipe,
    pack: Pack,
    labels: Labels,
    settings: FineTuning,
    starts: list[Classifier],
    layer_decay: float | None,
    step: Callable[[str], None],
) -> tuple[Rows, dict[str, float]]:
    """Rows at every shot count and draw, and the learning rate chosen for each shot count."""
    ways = [Training(settings.steps, settings.views, rate, layer_decay) for rate in settings.learning_rates]
    rows, rates = [], {}
    for shots in settings.shots:
        tried = [Job(shots, 0, way) for way in ways]
        first = list(trained_on_labels(recipe, pack, labels, tried, starts, step, method))
        right = [(found["validation"].predicted == labels.classes["validation"]).mean() for _, found in first]
        best, found = first[right.index(max(right))]
        rates[named(shots)] = best.training.learning_rate
        others = [Job(shots, draw, best.training) for draw in range(1, settings.draws)]
        done = [(best, found), *trained_on_labels(recipe, pack, labels, others, starts, step, method)]
        rows += [labels.scored(method, "full", shots, job.draw, answers["test"]) for job, answers in done]
    return rows, rates
