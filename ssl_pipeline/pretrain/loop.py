"""The training loop: one for every task, encoder and number of processes.

What decides the result is in the job (recipe slices, pack) and the position (epoch, step): the order of samples, the
pretext labels and so the views are drawn from generators that are keyed by seed and epoch, not from a running stream. A
resumed run therefore computes what an uninterrupted one would, on a CPU bit for bit, and the same samples meet in a batch
wherever they are kept and however many processes share it.

Nothing in a step waits for the device but the rows of the curves, every `log_every` steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.encoders.encoder import Batch, Encoder, build, go_on_from
from ssl_pipeline.pretext.labels import VALIDATION, draw, generator, trained_on
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.task import Labels
from ssl_pipeline.pretrain import checkpoint
from ssl_pipeline.pretrain.compute import (
    Objective,
    compile_step,
    mixed_precision,
    precision_name,
    render,
    seed_device,
    worth_compiling,
)
from ssl_pipeline.pretrain.data import Samples, label_batches
from ssl_pipeline.pretrain.diagnostics import Alarm, Clock, describe, effective_rank, embedding_std
from ssl_pipeline.pretrain.distributed import Group, no_exchange, replicate, spread
from ssl_pipeline.pretrain.energy import Meter
from ssl_pipeline.pretrain.memory import whole_batch
from ssl_pipeline.pretrain.plan import Plan
from ssl_pipeline.recipe import Recipe

Row = dict[str, float]


class Interrupted(Exception):
    """Asked to stop; a checkpoint was written."""


def pretrain(
    recipe: Recipe,
    pack: Pack,
    checkpoints: Path,
    log: Callable[[Row], None],
    stop_requested: Callable[[], bool] = lambda: False,
    group: Group | None = None,
    plan: Plan | None = None,
) -> tuple[Encoder, dict[str, Any]]:
    """Trains, resuming from `checkpoints` where it holds any; `log` gets a row of the curves every few steps (in the
    first process of the group; the others' rows say less).

    `plan` is what the recipe does not say: an encoder to go on from, other rows, steps or pieces.

    Returns the last step's encoder, in evaluation mode, and a summary. Raises Interrupted after a checkpoint once
    `stop_requested`, TrainingAlarm on collapse or NaN.
    """
    settings, task, plan = recipe.pretrain, recipe.pretext, plan or Plan()
    group = group or Group.join(settings)
    device = group.device
    torch.manual_seed(settings.seed)
    encoder = build(recipe.encoder, pack.given)
    if plan.start_from:
        go_on_from(encoder, plan.start_from, pack.facts)
    objective = Objective(task, encoder, task.build_head(encoder)).to(device)
    if not settings.shard:  # FSDP2 splits contiguous tensors only
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train, validation = (
        Samples(trained_on(task, pack, split), device, group.world) for split in ("train", "validation")
    )
    rows = replayed(recipe, len(train), plan.fresh)
    batch_size = whole_batch(settings, rows.length, group.world)
    at_once = min(settings.batch_size, len(validation))  # samples, in validation
    at_once = max(min(2, at_once), at_once // (plan.accumulate or 1))
    settings = settings.model_copy(update={"accumulate": plan.accumulate or settings.accumulate})
    steps_per_epoch = rows.length // batch_size
    total = plan.steps or settings.epochs * steps_per_epoch
    # as large a part of another number of steps
    warmup = round(settings.warmup_epochs * (total / settings.epochs if plan.steps else steps_per_epoch))
    autocast = mixed_precision(settings, device)
    compiled = worth_compiling(settings, task, encoder, steps_per_epoch * batch_size, device)
    objective = spread(objective, group, settings)
    options: dict[str, Any] = {"momentum": 0.9} | (
        {} if settings.optimizer == "lars" or settings.shard else {"fused": True}
    )
    optimizer = create_optimizer_v2(
        objective, settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay, **options
    )
    step, spent = checkpoint.restore(checkpoints, objective, optimizer)
    replica = replicate(objective, group, settings)
    look: Callable[[Batch, Labels], Any] = partial(render, task, encoder)
    look, model = (compile_step(look), compile_step(replica)) if compiled else (look, replica)
    if group.rank == 0:
        print(
            f"{len(train)} samples {train.tier} on {device}, {group.world} processes, compiled: {compiled}", flush=True
        )

    alarm, clock, losses, final = Alarm(), Clock(), [], {}
    meter = Meter(device, packages=group.rank == 0)
    started, last_checkpoint, rest = time.monotonic() - spent["seconds"], time.monotonic(), settings.checkpoint_seconds

    def joules() -> float | None:
        counted = [one for one in group.collect(meter.joules()) if one is not None]
        return sum(counted, spent["joules"]) if counted else None

    epochs = range(step // steps_per_epoch, math.ceil(total / steps_per_epoch))
    for epoch, order, drawn in plans(recipe, rows, epochs, device):
        start, stop = (
            min(at, steps_per_epoch) for at in (step - epoch * steps_per_epoch, total - epoch * steps_per_epoch)
        )
        chosen = order[start * batch_size : stop * batch_size].split(batch_size)
        parts = [[group.share(part) for part in one.chunk(settings.accumulate)] for one in chosen]
        flat = [part for pieces in parts for part in pieces]
        batches = zip(train.batches(flat), label_batches(drawn, flat, device), strict=True)
        objective.train()
        for pieces in parts:
            for weights in optimizer.param_groups:
                weights["lr"] = settings.learning_rate * schedule(step, warmup, total)
            seed_device(device, settings.seed * 1_000_003 + step)  # dropout and the like: no state to keep
            loss = torch.zeros((), device=device)
            for i in range(len(pieces)):
                with clock.waiting():
                    batch, labels = next(batches)
                with autocast(), no_exchange(replica, until_last=i + 1 < len(pieces)):
                    out = model(look(batch, labels), labels)
                    share = out["loss"] / len(pieces)
                    share.backward()
                loss += share.detach()
            norm = nn.utils.clip_grad_norm_(objective.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            task.after_step(encoder, objective.head, step / total)
            losses.append(loss)
            logged = step % settings.log_every == 0 or step == total
            if logged:
                row = describe(out, norm) | {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    "loss": float(group.mean(torch.stack(losses).mean())),
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "total_steps": total,
                    **clock.lap(len(losses) * batch_size),
                }
                losses = []
                alarm.check(row)
                log(row)
                meter.joules()
            if logged or group.world == 1:
                due = time.monotonic() - last_checkpoint > rest
                asked, due = group.agree(stop_requested(), due)
                if asked or due:
                    began = time.monotonic()
                    state = checkpoint.state_of(objective, optimizer)
                    state |= {"seconds": time.monotonic() - started, "joules": joules() or 0.0}
                    if group.rank == 0:
                        checkpoint.save(checkpoints, step, state)
                    last_checkpoint = time.monotonic()
                    took = last_checkpoint - began
                    rest = settings.checkpoint_seconds and max(settings.checkpoint_seconds, min(900, 100 * took))
                if asked:
                    group.agree(True)  # torchrun ends all processes when the first one leaves: not before it is saved
                    raise Interrupted(f"stopped at step {step} of {total}")
        final = validate(recipe, objective, validation, autocast, group, at_once)
        log({"step": step, "epoch": epoch + 1, "total_steps": total} | {f"validation/{k}": v for k, v in final.items()})

    final = final or validate(recipe, objective, validation, autocast, group, at_once)
    summary = {
        "epochs": math.ceil(total / steps_per_epoch),
        "steps": total,
        **({"new_samples": rows.fresh, "replayed_samples": rows.length - rows.fresh} if rows.new is not None else {}),
        "final_loss": final["loss"],
        "collapse_loss": task.collapse_loss(min(batch_size, at_once)),
        "effective_rank": final["effective_rank"],
        "embedding_std": final["embedding_std"],
        "encoder_passes": total * batch_size * task.encoder_passes,
        "train_seconds": round(time.monotonic() - started, 1),
        "energy_joules": joules(),
        "precision": precision_name(settings, device),
        "device": str(device),
        "processes": group.world,
        "accumulate_used": settings.accumulate,
        "samples": train.tier,
        "compiled": compiled,
    }
    if task.keeps_head:
        head = checkpoint.weights(objective.head)
        if group.rank == 0:
            encoders.save_head(head, checkpoints.parent)
    if settings.shard and group.world > 1:
        pieces_of = encoder
        encoder = build(recipe.encoder, pack.given)
        encoder.load_state_dict(checkpoint.weights(pieces_of))
    return encoder.eval(), summary


@dataclass(frozen=True)
class Rows:
    """What an epoch goes through: all samples, or all fresh ones and some others that are drawn anew each epoch."""

    samples: int
    new: Tensor | None = None
    old: Tensor | None = None
    replay: int = 0
    """How many of the old ones."""

    @property
    def fresh(self) -> int:
        return self.samples if self.new is None else len(self.new)

    @property
    def length(self) -> int:
        return self.fresh + self.replay

    def order(self, seed: int, epoch: int) -> Tensor:
        chance = generator(seed, "order", epoch)
        if self.new is None or self.old is None:
            return torch.randperm(self.samples, generator=chance)
        rows = torch.cat([self.new, self.old[torch.randperm(len(self.old), generator=chance)[: self.replay]]])
        return rows[torch.randperm(len(rows), generator=chance)]


def replayed(recipe: Recipe, samples: int, fresh: np.ndarray | None) -> Rows:
    """All rows where none is said to be fresh, or all are."""
    warm = recipe.retrain.warm_start
    if fresh is None or warm is None or len(fresh) in (0, samples):
        return Rows(samples)
    old = torch.from_numpy(np.setdiff1d(np.arange(samples), fresh))
    return Rows(
        samples, torch.from_numpy(fresh), old, min(len(old), round(len(fresh) * warm.replay / (1 - warm.replay)))
    )


def plans(recipe: Recipe, rows: Rows, epochs: range, device: torch.device) -> Iterator[tuple[int, Tensor, Labels]]:
    """Of each epoch its number, the order of the samples and the pretext labels of all of them. While a GPU
    trains, the next epoch's are drawn: for a million samples that takes seconds. On a CPU a second thread with threads of its
    own would end the spinning of the first one's (libgomp then counts more threads than cores) and cost a fifth of a step."""
    seed = recipe.pretrain.seed

    def plan(epoch: int) -> tuple[int, Tensor, Labels]:
        return epoch, rows.order(seed, epoch), draw(recipe.pretext, recipe.encoder, rows.samples, seed, "train", epoch)

    if device.type == "cpu":
        yield from map(plan, epochs)
        return
    with ThreadPoolExecutor(1, "draw ahead") as ahead:
        coming = [ahead.submit(plan, epoch) for epoch in epochs[:1]]
        for i in range(len(epochs)):
            coming += [ahead.submit(plan, epoch) for epoch in epochs[i + 1 : i + 2]]
            yield coming.pop(0).result()


@torch.no_grad()
def validate(
    recipe: Recipe, objective: Objective, samples: Samples, autocast: Any, group: Group, batch_size: int
) -> dict[str, float]:
    """The pretext task on the validation split with labels that never change: mean loss and the task's other scalars
    over whole batches, and the embeddings' spread. Processes take turns at the batches, so their number changes nothing."""
    objective.eval()
    seed = recipe.pretrain.seed
    turns = 1 if recipe.pretrain.shard else group.world  # sharded weights meet only where all work on the same batch
    labels = draw(recipe.pretext, recipe.encoder, len(samples), seed, "validation", VALIDATION)
    # a source is often sorted by class, and batches of one class would ask another question than training does
    order = torch.randperm(len(samples), generator=generator(seed, "validation order"))
    parts = [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]
    parts = parts[group.rank % turns :: turns]
    scalars, embeddings = [], []
    batches = zip(samples.batches(parts), label_batches(labels, parts, group.device), strict=True)
    for i, (batch, asked) in enumerate(batches):
        # what a loss draws must not move its curve either
        seed_device(group.device, seed + group.rank % turns + i * turns)
        with autocast():
            out = objective(render(recipe.pretext, objective.encoder, batch, asked), asked)
        embeddings.append(out.pop("embedding").float().cpu())
        scalars.append({name: float(value) for name, value in out.items()})
    gathered = group.collect((scalars, embeddings))[:turns]
    scalars = [row for rows, _ in gathered for row in rows]
    means = {name: math.fsum(row[name] for row in scalars) / len(scalars) for name in scalars[0]}
    means |= recipe.pretext.derived(means)
    embedding = torch.cat([part for _, parts in gathered for part in parts])[:2048]
    return means | {"embedding_std": embedding_std(embedding), "effective_rank": effective_rank(embedding)}


def schedule(step: int, warmup: int, total: int) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
