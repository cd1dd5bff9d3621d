"""The training loop: one for every task and encoder.

What decides the result is in the job (recipe slices, pack) and the position (epoch, step): the order of samples, the
pretext labels and so the views are drawn from generators that are keyed by seed and epoch, not from a running stream. A
resumed run therefore computes bit for bit what an uninterrupted one would on the same machine.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from ssl_pipeline.encoders.encoder import Encoder, build
from ssl_pipeline.pretext.labels import VALIDATION, draw, generator
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.task import Labels
from ssl_pipeline.pretrain import checkpoint
from ssl_pipeline.pretrain.data import Images
from ssl_pipeline.pretrain.diagnostics import Alarm, effective_rank, embedding_std
from ssl_pipeline.recipe import Pretrain, Recipe

Row = dict[str, float]


class Interrupted(Exception):
    """Asked to stop; a checkpoint was written."""


def pretrain(
    recipe: Recipe,
    pack: Pack,
    checkpoints: Path,
    log: Callable[[Row], None],
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[Encoder, dict[str, Any]]:
    """Trains, resuming from `checkpoints` where it holds any; `log` gets a row of the curves every few steps.

    Returns the last step's encoder, in evaluation mode, and a summary. Raises Interrupted after a checkpoint once
    `stop_requested`, TrainingAlarm on collapse or NaN.
    """
    settings, task = recipe.pretrain, recipe.pretext
    device = pick_device(settings.device)
    torch.manual_seed(settings.seed)
    encoder = build(recipe.encoder, pack.channels, pack.mean, pack.std)
    head = task.build_head(encoder)
    model = nn.ModuleDict({"encoder": encoder, "head": head}).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(
        model, settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay, momentum=0.9
    )
    train, validation = Images(pack.images("train"), device), Images(pack.images("validation"), device)
    batch_size = min(settings.batch_size, len(train))
    steps_per_epoch = len(train) // batch_size
    total = settings.epochs * steps_per_epoch
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    autocast = mixed_precision(settings, device)

    step, final = 0, {}
    if saved := checkpoint.newest(checkpoints):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        step = saved["step"]

        if device.type == "cuda":
            torch.cuda.set_rng_state_all(saved["cuda_rng"])

    alarm, clock, losses = Alarm(), Clock(), []
    last_checkpoint = time.monotonic()
    started = last_checkpoint - (saved["seconds"] if saved else 0.0)
    while step < total:
        epoch, start = divmod(step, steps_per_epoch)
        order = torch.randperm(len(train), generator=generator(settings.seed, "order", epoch))
        labels = draw(task, recipe.encoder, len(train), settings.seed, "train", epoch)
        model.train()
        for i in range(start, steps_per_epoch):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, warmup, total)
            logged = (step + 1) % settings.log_every == 0 or step + 1 == total
            loss = torch.zeros((), device=device)
            for part in chosen.chunk(settings.accumulate):
                with clock.waiting():
                    images = train[part]
                with autocast():
                    out = task.step(encoder, head, images, to_device(labels, part, device))
                share = out["loss"] * (len(part) / batch_size)
                share.backward()
                loss += share.detach()
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            losses.append(loss)
            if logged:
                row = describe(out, norm) | {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    "loss": float(torch.stack(losses).mean()),
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "total_steps": total,
                    **clock.lap(len(losses) * batch_size),
                }
                losses = []
                alarm.check(row)
                log(row)
            stop = stop_requested()
            if stop or time.monotonic() - last_checkpoint > settings.checkpoint_seconds:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
                if device.type == "cuda":
                    state["cuda_rng"] = torch.cuda.get_rng_state_all()
                checkpoint.save(checkpoints, step, state | {"seconds": time.monotonic() - started})
                last_checkpoint = time.monotonic()
            if stop:
                raise Interrupted(f"stopped at step {step} of {total}")
        final = validate(recipe, encoder, head, validation, autocast, device)
        log({"step": step, "epoch": epoch + 1, "total_steps": total} | {f"validation/{k}": v for k, v in final.items()})

    final = final or validate(recipe, encoder, head, validation, autocast, device)
    summary = {
        "epochs": settings.epochs,
        "steps": total,
        "final_loss": final["loss"],
        "collapse_loss": task.collapse_loss(min(settings.batch_size, len(validation))),
        "effective_rank": final["effective_rank"],
        "embedding_std": final["embedding_std"],
        "encoder_passes": total * batch_size * task.encoder_passes,
        "train_seconds": round(time.monotonic() - started, 1),
        "precision": precision_name(settings, device),
        "device": str(device),
    }
    return encoder.eval(), summary


@torch.no_grad()
def validate(
    recipe: Recipe, encoder: Encoder, head: nn.Module, images: Images, autocast: Any, device: torch.device
) -> dict[str, float]:
    """The pretext task on the validation split with labels that never change: mean loss and the task's other scalars
    over whole batches, and the embeddings' spread."""
    encoder.eval(), head.eval()
    batch_size = min(recipe.pretrain.batch_size, len(images))
    labels = draw(recipe.pretext, recipe.encoder, len(images), recipe.pretrain.seed, "validation", VALIDATION)
    totals: dict[str, list[float]] = {}
    embeddings = []
    # a source is often sorted by class, and batches of one class would ask another question than training does
    order = torch.randperm(len(images), generator=generator(recipe.pretrain.seed, "validation order"))
    for part in order.split(batch_size):
        if len(part) < batch_size:
            continue
        with autocast():
            out = recipe.pretext.step(encoder, head, images[part], to_device(labels, part, device))
        embeddings.append(out.pop("embedding").float())
        for name, value in out.items():
            totals.setdefault(name, []).append(float(value))
    embedding = torch.cat(embeddings)[:2048]
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    return means | {"embedding_std": embedding_std(embedding), "effective_rank": effective_rank(embedding)}


def schedule(step: int, warmup: int, total: int) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def describe(out: dict[str, Any], norm: Tensor) -> Row:
    """A step's output as plain numbers; the only place in the loop that waits for the device."""
    embedding = out["embedding"].detach()[:1024]
    scalars = {name: float(value) for name, value in out.items() if name not in ("embedding", "loss")}
    spread = {"embedding_std": embedding_std(embedding), "effective_rank": effective_rank(embedding)}
    return scalars | spread | {"gradient_norm": float(norm)}


def to_device(labels: Labels, part: Tensor, device: torch.device) -> Labels:
    return {name: value[part].to(device, non_blocking=True) for name, value in labels.items()}


def pick_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def precision_name(settings: Pretrain, device: torch.device) -> str:
    """auto means bf16 where the hardware multiplies it natively."""
    if settings.precision != "auto":
        return settings.precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native and device.type in ("cuda", "cpu") else "fp32"


def mixed_precision(settings: Pretrain, device: torch.device) -> Callable[[], Any]:
    on = precision_name(settings, device) == "bf16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=on)


class Clock:
    """Images a second, and the share of the time that was spent waiting for data."""

    def __init__(self) -> None:
        self.started, self.waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def lap(self, images: int) -> Row:
        now = time.perf_counter()
        elapsed, waited = now - self.started, self.waited
        self.started, self.waited = now, 0.0
        return {"images_per_second": images / elapsed, "data_wait_share": waited / elapsed}
