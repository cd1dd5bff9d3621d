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
from functools import partial
from pathlib import Path
from typing import Any

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
from ssl_pipeline.pretrain.memory import whole_batch
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
    start_from: Path | None = None,
    accumulate: int | None = None,
) -> tuple[Encoder, dict[str, Any]]:
    """Trains, resuming from `checkpoints` where it holds any; `log` gets a row of the curves every few steps (in the
    first process of the group; the others' rows say less).

    `start_from` is the folder of the encoder to go on from, where it is not a fresh one. `accumulate` cuts each batch into more
    pieces than the recipe says, where memory was too small; the batch itself stays.

    Returns the last step's encoder, in evaluation mode, and a summary. Raises Interrupted after a checkpoint once
    `stop_requested`, TrainingAlarm on collapse or NaN.
    """
    settings, task = recipe.pretrain, recipe.pretext
    group = group or Group.join(settings)
    device = group.device
    torch.manual_seed(settings.seed)
    encoder = build(recipe.encoder, pack.given)
    if start_from:
        go_on_from(encoder, start_from, pack.facts)
    objective = Objective(task, encoder, task.build_head(encoder)).to(device)
    if not settings.shard:  # FSDP2 splits contiguous tensors only
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train, validation = (
        Samples(trained_on(task, pack, split), device, group.world) for split in ("train", "validation")
    )
    batch_size = whole_batch(settings, len(train), group.world)
    at_once = min(settings.batch_size, len(validation))  # samples, in validation
    at_once = max(min(2, at_once), at_once // (accumulate or 1))
    settings = settings.model_copy(update={"accumulate": accumulate or settings.accumulate})
    steps_per_epoch = len(train) // batch_size
    total = settings.epochs * steps_per_epoch
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    autocast = mixed_precision(settings, device)
    compiled = worth_compiling(settings, task, encoder, steps_per_epoch * batch_size, device)
    objective = spread(objective, group, settings)
    options: dict[str, Any] = {"momentum": 0.9} | (
        {} if settings.optimizer == "lars" or settings.shard else {"fused": True}
    )
    optimizer = create_optimizer_v2(
        objective, settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay, **options
    )
    step, seconds = checkpoint.restore(checkpoints, objective, optimizer)
    replica = replicate(objective, group, settings)
    look: Callable[[Batch, Labels], Any] = partial(render, task, encoder)
    look, model = (compile_step(look), compile_step(replica)) if compiled else (look, replica)
    if group.rank == 0:
        print(
            f"{len(train)} samples {train.tier} on {device}, {group.world} processes, compiled: {compiled}", flush=True
        )

    alarm, clock, losses, final = Alarm(), Clock(), [], {}
    started, last_checkpoint, rest = time.monotonic() - seconds, time.monotonic(), settings.checkpoint_seconds
    for epoch, order, drawn in plans(recipe, len(train), step // steps_per_epoch, device):
        start = step - epoch * steps_per_epoch
        steps = order[start * batch_size : steps_per_epoch * batch_size].split(batch_size)
        parts = [[group.share(part) for part in chosen.chunk(settings.accumulate)] for chosen in steps]
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
            if logged or group.world == 1:
                due = time.monotonic() - last_checkpoint > rest
                stop, due = group.agree(stop_requested(), due)
                if stop or due:
                    began = time.monotonic()
                    state = checkpoint.state_of(objective, optimizer) | {"seconds": time.monotonic() - started}
                    if group.rank == 0:
                        checkpoint.save(checkpoints, step, state)
                    last_checkpoint = time.monotonic()
                    took = last_checkpoint - began
                    rest = settings.checkpoint_seconds and max(settings.checkpoint_seconds, min(900, 100 * took))
                if stop:
                    group.agree(True)  # torchrun ends all processes when the first one leaves: not before it is saved
                    raise Interrupted(f"stopped at step {step} of {total}")
        final = validate(recipe, objective, validation, autocast, group, at_once)
        log({"step": step, "epoch": epoch + 1, "total_steps": total} | {f"validation/{k}": v for k, v in final.items()})

    final = final or validate(recipe, objective, validation, autocast, group, at_once)
    summary = {
        "epochs": settings.epochs,
        "steps": total,
        "final_loss": final["loss"],
        "collapse_loss": task.collapse_loss(min(batch_size, at_once)),
        "effective_rank": final["effective_rank"],
        "embedding_std": final["embedding_std"],
        "encoder_passes": total * batch_size * task.encoder_passes,
        "train_seconds": round(time.monotonic() - started, 1),
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


def plans(recipe: Recipe, samples: int, first: int, device: torch.device) -> Iterator[tuple[int, Tensor, Labels]]:
    """From epoch `first` to the last: its number, the order of the samples and their pretext labels. While a GPU
    trains, the next epoch's are drawn: for a million samples that takes seconds. On a CPU a second thread with threads of its
    own would end the spinning of the first one's (libgomp then counts more threads than cores) and cost a fifth of a step."""
    seed = recipe.pretrain.seed

    def plan(epoch: int) -> tuple[int, Tensor, Labels]:
        order = torch.randperm(samples, generator=generator(seed, "order", epoch))
        return epoch, order, draw(recipe.pretext, recipe.encoder, samples, seed, "train", epoch)

    epochs = range(first, recipe.pretrain.epochs)
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
