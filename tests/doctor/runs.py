"""Runs as they would be seen, made of plain arrays: what the tests of the checks start from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from batchwright.doctor.records import Backward, Batch, Loader, Pass, Rank, Run, Update

NOTHING: Mapping[str, Any] = {}


def batch_of(samples, /, *, lengths=None, labels=None, **fields) -> Batch:
    """Make a batch of some samples; `lengths` and `labels` are those of all samples, by index."""
    chosen = np.asarray(samples, np.int64)
    if lengths is not None:
        real = np.asarray(lengths, np.int64)[chosen]
        fields = {"lengths": real, "width": int(real.max(initial=0)), **fields}
    if labels is not None:
        fields = {"labels": np.asarray(labels, np.int64)[chosen], **fields}
    return Batch(**{"samples": chosen, "rows": chosen.size, "width": 1, **fields})


def mean_of(batch: Batch, accumulate: int) -> Backward:
    """Say what a loop does that takes the mean over a batch, and divides it by the accumulation."""
    return Backward(1.0, "mean", 1 / accumulate, counted=batch.tokens)


def run_of(
    *epochs: Any,
    batch_size: int = 4,
    drop_last: bool = False,
    accumulate: int = 1,
    lengths: Any = None,
    labels: Any = None,
    is_complete: bool | Sequence[bool] = True,
    seconds: float = 1.0,
    backward: Callable[[Batch], Backward] | None = None,
    batch: Mapping[str, Any] = NOTHING,
    update: Mapping[str, Any] = NOTHING,
    loader: Mapping[str, Any] = NOTHING,
    rank: Mapping[str, Any] = NOTHING,
    **fields: Any,
) -> Run:
    """Make the run that trains on some epochs.

    Args:
        *epochs: What each of them holds. Of one rank: an array of samples, which is cut into
            batches; or a list of arrays, its batches. Of several ranks: a tuple of those.
        batch_size: Samples of a batch.
        drop_last: Whether a last batch with fewer is left out.
        accumulate: Batches of an update.
        lengths: int[n], of all samples, by index.
        labels: int[n], of all samples, by index.
        is_complete: Whether the last epoch came to its end; those before did. Or of each.
        seconds: What a batch takes.
        backward: Makes the call of `backward` for a batch. None: a mean, divided.
        batch: Fields of every batch.
        update: Fields of every update.
        loader: Fields of the loader that is trained on. It has as many samples as there are
            lengths or labels, or as the largest index says.
        rank: Fields of every rank.
        **fields: Fields of the run.
    """
    by_rank = list(
        zip(*(each if isinstance(each, tuple) else (each,) for each in epochs), strict=True)
    )
    world_size = len(by_rank)

    def cut(part: Any) -> list[Any]:
        return _cut(part, batch_size, drop_last=drop_last)

    def passes_of(parts: Sequence[Any]) -> tuple[Pass, ...]:
        made, clock = [], 0.0
        for number, part in enumerate(parts):
            batches = []
            for samples in cut(part):
                known = {"lengths": lengths, "labels": labels, "time": clock, **batch}
                batches.append(batch_of(samples, **known))
                clock += seconds
            is_before = number < len(parts) - 1
            ended = is_before or is_complete
            if not isinstance(is_complete, bool):
                ended = is_complete[number]
            made.append(Pass(tuple(batches), bool(ended)))
        return tuple(made)

    def updates_of(passes: Sequence[Pass]) -> tuple[Update, ...]:
        made: list[Update] = []
        for each in passes:
            for at in range(0, len(each.batches), accumulate):
                batches = each.batches[at : at + accumulate]
                backwards = [
                    mean_of(one, accumulate) if backward is None else backward(one)
                    for one in batches
                ]
                start = made[-1].end if made else 0.0
                times = {"start": start, "end": batches[-1].time + seconds}
                made.append(Update(batches, tuple(backwards), **{**times, **update}))
        return tuple(made)

    def rank_of(number: int, parts: Sequence[Any]) -> Rank:
        passes = passes_of(parts)
        known = next((len(each) for each in (lengths, labels) if each is not None), None)
        if known is None:
            seen = [each for part in parts for each in cut(part)]
            known = 1 + max((int(np.max(each, initial=-1)) for each in seen), default=-1)
        options = {
            "num_samples": known,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "sampler": "RandomSampler" if world_size == 1 else "DistributedSampler",
            "batch_sampler": "BatchSampler",
            "dataset": "Dataset",
        }
        made = Loader(passes, **{**options, **loader})
        return Rank(number, world_size, (made,), updates_of(passes), **rank)

    ranks = tuple(rank_of(number, parts) for number, parts in enumerate(by_rank))
    if loader.get("num_samples", ...) is ... and lengths is None and labels is None:
        ranks = _with_as_many_samples(ranks)
    return Run(ranks, **fields)


def _cut(part: Any, batch_size: int, *, drop_last: bool) -> list[Any]:
    """Cut samples into batches, unless they are."""
    if isinstance(part, list):
        return part
    end = len(part) - len(part) % batch_size if drop_last else len(part)
    return [part[at : min(at + batch_size, end)] for at in range(0, end, batch_size)]


def _with_as_many_samples(ranks: tuple[Rank, ...]) -> tuple[Rank, ...]:
    """Give the loader of each rank the data set of all."""
    most = max((each.loaders[0].num_samples or 0 for each in ranks), default=0)
    return tuple(
        replace(each, loaders=(replace(each.loaders[0], num_samples=most),)) for each in ranks
    )


def with_updates(run: Run, change: Callable[[int, Update], Update]) -> Run:
    """Change every update of every rank; `change` also gets its number."""
    ranks = (
        replace(each, updates=tuple(change(number, one) for number, one in enumerate(each.updates)))
        for each in run.ranks
    )
    return replace(run, ranks=tuple(ranks))


def lasting(update: Update, seconds: float, *, beside: float = 0.0) -> Update:
    """Let an update take so long for its batches, and so long beside them."""
    start = update.batches[0].time - update.batches[0].wait
    return replace(update, start=start, computed=start + seconds, end=start + seconds + beside)


def with_ranks(run: Run, change: Callable[[Rank], Rank]) -> Run:
    """Change every rank."""
    return replace(run, ranks=tuple(change(each) for each in run.ranks))


def shuffles(num_samples: int, epochs: int = 2, seed: int = 0) -> list[Any]:
    """Draw another order for each epoch."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(num_samples) for _ in range(epochs)]


def shared(order: Any, world_size: int = 2) -> tuple[Any, ...]:
    """Share an order among ranks as `DistributedSampler` does: repeats make the counts equal."""
    repeats = -len(order) % world_size
    padded = np.concatenate([order, np.resize(order, repeats)])
    return tuple(padded[rank::world_size] for rank in range(world_size))


def blocks(order: Any, world_size: int = 2) -> tuple[Any, ...]:
    """Share an order among ranks in whole blocks."""
    ends = np.linspace(0, len(order), world_size + 1).astype(int)
    return tuple(order[a:b] for a, b in pairwise(ends))
