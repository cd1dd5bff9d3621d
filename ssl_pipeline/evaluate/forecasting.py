"""Forecasting: the end of a window from its beginning.

    linear       ridge regression on the frozen encoder's tokens, flattened (Nie et al. 2023, PatchTST, section 4.2: linear
                 probing), its penalty chosen on the validation split
    skill        1 - squared error / squared error of the last value (Murphy 1988, eq. 4): 0 is as good as repeating it

Every method foretells the change from the last value that is known (Zeng et al. 2023, NLinear, section 4.2), in units of the
training split's deviation; an encoder that normalises each window (RevIN) foretells it in units of that window's known part.
Windows of the test split come later than those of training, or from other recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ssl_pipeline.evaluate.fresh import fresh_encoder
from ssl_pipeline.evaluate.result import Metrics, Result
from ssl_pipeline.evaluate.settings_forecasting import Forecasting
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretrain.compute import pick_device
from ssl_pipeline.pretrain.loop import schedule

if TYPE_CHECKING:
    from ssl_pipeline.recipe import Recipe

PENALTIES = tuple(10.0**power for power in range(6))
BATCH = 256
BATCH_SIZE, LEARNING_RATE = 64, 1e-3
"""Of the supervised baseline."""
EXAMPLES = 6

Series = dict[str, Tensor]
"""Standardised windows `[n, channels, length]` of each split."""


def own(
    recipe: Recipe, pack: Pack, encoder: Any, features: dict[str, np.ndarray], folder: Path, settings: Forecasting
) -> Result:
    """A linear forecast from this encoder's tokens, and how it looks."""
    series = standardised(pack, encoder)
    refuse_still(series, settings)
    change = forecast(inputs_of(encoder, series, settings), series, settings, encoder.instance)
    shown = torch.linspace(0, len(change) - 1, min(EXAMPLES, len(change))).long().numpy()
    known, truth = parts(series["test"], settings)
    last = known[:, :, -1:].numpy()
    lines = [known[shown].numpy(), truth[shown].numpy(), change[shown] + last[shown]]
    return Result(
        summarize([change], series, settings), {"forecasts": ("forecasts", *lines, pack.facts["names"])},
        facts={"test_samples": len(change)},
    )  # fmt: skip


def baselines(recipe: Recipe, pack: Pack, settings: Forecasting, step: Callable[[str], None]) -> dict[str, Metrics]:
    """The metrics of every baseline by its name."""
    device = pick_device(recipe.pretrain.device)
    fresh = [fresh_encoder(recipe, pack, draw).to(device) for draw in range(settings.random_encoders)]
    series = standardised(pack, fresh[0])
    refuse_still(series, settings)
    step("random encoder")
    changes = [forecast(inputs_of(one, series, settings), series, settings, one.instance) for one in fresh]
    step("linear forecast")
    raw = {split: (known - known[:, :, -1:]).flatten(1).numpy() for split, (known, _) in both(series, settings).items()}
    answer = {
        "random encoder": summarize(changes, series, settings),
        "last value": summarize([np.zeros_like(changes[0])], series, settings),
        "linear forecast": summarize([forecast(raw, series, settings)], series, settings),
    }
    if settings.supervised_steps:
        step("supervised")
        answer["supervised"] = summarize(
            [supervised(fresh_encoder(recipe, pack, 0).to(device), series, settings)], series, settings
        )
    return answer


def standardised(pack: Pack, encoder: Any) -> Series:
    return {
        split: encoder.read({"values": torch.from_numpy(np.array(pack.samples(split)["values"]))}).cpu()
        for split in SPLITS
    }


def parts(x: Tensor, settings: Forecasting) -> tuple[Tensor, Tensor]:
    """What is known `[n, channels, length - horizon]` and what is to be foretold `[n, channels, horizon]`."""
    return x[:, :, : -settings.horizon], x[:, :, -settings.horizon :]


def refuse_still(series: Series, settings: Forecasting) -> None:
    """Raises PipelineError where a split has nothing to foretell: shorter windows are filled up with their last value."""
    for split, (known, target) in both(series, settings).items():
        if not (target != known[:, :, -1:]).any():
            raise PipelineError(
                f"forecasting: nothing changes in the last {settings.horizon} steps of the {split} split's windows; shorter ones "
                "are filled up to the encoder's length: lower encoder.length to that of the windows, or horizon"
            )


def both(series: Series, settings: Forecasting) -> dict[str, tuple[Tensor, Tensor]]:
    """`parts` of each split."""
    return {split: parts(x, settings) for split, x in series.items()}


def seen(x: Tensor, settings: Forecasting) -> Tensor:
    """`[n, channels, length]`, the end replaced by the last known value."""
    known, _ = parts(x, settings)
    return torch.cat([known, known[:, :, -1:].expand(-1, -1, settings.horizon)], 2)


def scales(series: Series, settings: Forecasting, instance: bool) -> dict[str, Any]:
    """What the change is counted in: 1, or each window's deviation in its known part `[n, channels, 1]`."""
    if not instance:
        return dict.fromkeys(series, 1.0)
    return {split: known.std(2, keepdim=True).clamp_min(1e-3) for split, (known, _) in both(series, settings).items()}


def inputs_of(encoder: Any, series: Series, settings: Forecasting) -> dict[str, np.ndarray]:
    return {split: tokens(encoder, x, settings) for split, x in series.items()}


@torch.inference_mode()
def tokens(encoder: Any, x: Tensor, settings: Forecasting) -> np.ndarray:
    """`[n, places * width]`"""
    chunks = seen(x, settings).split(BATCH)
    return torch.cat([encoder.tokens(part.to(encoder.device)).float().flatten(1).cpu() for part in chunks]).numpy()


def forecast(
    inputs: dict[str, np.ndarray], series: Series, settings: Forecasting, instance: bool = False
) -> np.ndarray:
    """The change from the last value `[n, channels, horizon]` in the test split, from inputs `[n, dim]` of each split."""
    known, target = zip(*(parts(series[split], settings) for split in SPLITS), strict=True)
    scale = scales(series, settings, instance)
    change = [
        ((t - k[:, :, -1:]) / scale[split]).flatten(1).numpy()
        for split, k, t in zip(SPLITS, known, target, strict=True)
    ]
    scaler = StandardScaler().fit(inputs["train"])
    train, validation, test = (scaler.transform(inputs[split]) for split in SPLITS)
    best, answer = np.inf, np.empty(0)
    for penalty in PENALTIES:
        model = Ridge(penalty).fit(train, change[0])
        error = float(np.square(model.predict(validation) - change[1]).mean())
        if error < best:
            best, answer = error, model.predict(test)
    return answer.reshape(target[2].shape) * np.asarray(scale["test"])


def supervised(encoder: Any, series: Series, settings: Forecasting) -> np.ndarray:
    """As `forecast`, of the network and a linear head trained for it from scratch."""
    known, target = parts(series["train"], settings)
    scale = scales(series, settings, encoder.instance)
    inputs, change = seen(series["train"], settings), ((target - known[:, :, -1:]) / scale["train"]).flatten(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(encoder.tokens(inputs[:1].to(encoder.device)).flatten(1).shape[1], change.shape[1])
    head.to(encoder.device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    encoder.train()
    for step in range(settings.supervised_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, settings.supervised_steps // 10, settings.supervised_steps)
        rows = torch.randint(len(inputs), (BATCH_SIZE,), generator=generator)
        answer = head(encoder.tokens(inputs[rows].to(encoder.device)).float().flatten(1))
        nn.functional.mse_loss(answer, change[rows].to(encoder.device)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval()
    with torch.inference_mode():
        found = head(torch.from_numpy(tokens(encoder, series["test"], settings)).to(encoder.device)).cpu().numpy()
    return found.reshape(parts(series["test"], settings)[1].shape) * np.asarray(scale["test"])


def summarize(changes: list[np.ndarray], series: Series, settings: Forecasting) -> Metrics:
    """Skill and its 95% bootstrap interval over windows; of several forecasts their mean squared error."""
    known, target = (part.numpy() for part in parts(series["test"], settings))
    change = target - known[:, :, -1:]
    error = np.mean([np.square(answer - change).mean((1, 2)) for answer in changes], axis=0)  # [n]
    still = np.square(change).mean((1, 2))
    n = len(error)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), settings.draws)  # [draws, n]
    low, high = np.quantile(1 - (times @ error) / (times @ still), (0.025, 0.975))
    return {
        "forecasting/linear/skill/all": {
            "mean": float(1 - error.sum() / still.sum()), "low": float(low), "high": float(high),
            "scores": 1 - error / still.mean(),
        }
    }  # fmt: skip
