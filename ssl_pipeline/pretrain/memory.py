"""When memory is full: the same batch, in smaller pieces whose gradients are added up."""

from __future__ import annotations

from torch import OutOfMemoryError

from ssl_pipeline.pretext.labels import trained_on
from ssl_pipeline.pretext.pack import Pack, rows_in
from ssl_pipeline.recipe import Pretrain, Recipe

WORDS = ("not enough memory", "out of memory", "can't allocate memory", "ALLOC_FAILED")
"""Of the RuntimeErrors of torch's CPU allocator, of cuBLAS, cuDNN and the CUDA driver."""


def is_full(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on a CPU."""
    refused = isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    return isinstance(error, (OutOfMemoryError, MemoryError)) or refused


def whole_batch(settings: Pretrain, samples: int, processes: int) -> int:
    """Samples a step: the recipe's, or what a small split holds, in pieces of one size for every process."""
    pieces = settings.accumulate * processes
    return min(settings.batch_size, samples // pieces * pieces)


def more_pieces(recipe: Recipe, pack: Pack, pieces: int) -> int | None:
    """Into how many the batch is cut next: twice as many or the next number that leaves pieces of one size, down to one
    sample a process (two, where the loss compares samples); None where they are that small already."""
    settings, smallest = recipe.pretrain, 2 if recipe.pretext.compares_samples else 1
    batch = whole_batch(settings, rows_in(trained_on(recipe.pretext, pack, "train")), settings.processes)
    share = batch // settings.processes
    return next((n for n in range(2 * pieces, share // smallest + 1) if share % n == 0), None)


def told(recipe: Recipe, pieces: int) -> str:
    """What a person should know of it: what is done, and what of the result it changes."""
    changes = (
        f"{recipe.pretext.task} compares the samples of a piece with each other, so this is another loss than the whole batch's: "
        "a smaller encoder or a GPU with more memory would keep it"
        if recipe.pretext.compares_samples
        else "the gradient is the whole batch's, but batch norms, where there are any, see the pieces"
    )
    return f"memory is full: going on from the last checkpoint with each batch in {pieces} pieces; {changes}"
