"""Epochs as they were trained, all ranks side by side; and what samplers are for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from batchwright.doctor.records import Loader, Pass, Rank, Run, Update
from batchwright.typing import IntArray

_PLAIN_BATCHES = {"", "BatchSampler", "BatchSamplerShard", "NoneType"}
"""Batch samplers that cut what a sampler yields, and leave out at most a last batch."""

_FREE = {"RandomSampler", "SeedableRandomSampler"}
"""Samplers with a `num_samples` argument, which may draw fewer samples than there are."""

_WHOLE = {
    *("SequentialSampler", "DistributedSampler", "StatefulDistributedSampler"),
    *("LengthGroupedSampler", "DistributedLengthGroupedSampler"),
}
"""Samplers that promise every sample of the data set."""

_DRAWING = (
    *("weight", "balanc", "perclass", "oversampl", "upsampl", "undersampl", "repeat", "rasampler"),
    *("bootstrap", "multinomial", "temperature", "mixture", "replace", "identity", "triplet"),
    *("episod", "fewshot", "shot", "pksampler", "negative"),
)
"""Parts of the names of samplers that repeat samples, or leave some out, on purpose."""

CERTAIN = 9.0
"""If the number of possible orders has so many digits, two are not the same by chance."""

_LOOKED_AT = 4_096
"""Orders are compared over at most this many samples."""


@dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch that was trained on, or the seen part of one."""

    loader: Loader  # of the first rank
    passes: tuple[Pass, ...]  # one per rank that has begun it
    updates: tuple[tuple[Update, ...], ...]  # those that all these ranks made, each rank by rank
    world_size: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it was seen, on every rank."""
        is_all = len(self.passes) == self.world_size
        return is_all and all(each.is_complete and each.is_identified for each in self.passes)

    @cached_property
    def samples(self) -> IntArray:
        """int64[n]: those of all ranks, one rank after the other."""
        return np.concatenate([each.samples for each in self.passes])

    @property
    def is_by_index(self) -> bool:
        """Whether its samples are known by index; the size of the data set may be unknown."""
        return self.loader.has_indices and self.samples.size > 0

    @property
    def has_indices(self) -> bool:
        """Whether its samples are known by their index in a data set of known size."""
        return self.loader.num_samples is not None and self.is_by_index

    @property
    def batch_size(self) -> int:
        """Samples of its largest batch."""
        batches = (batch for each in self.passes for batch in each.batches)
        return max((each.samples.size for each in batches if each.samples is not None), default=0)


def epochs_of(run: Run) -> tuple[Epoch, ...]:
    """Put the passes of all ranks side by side, and the updates that were made in them.

    Args:
        run: What was seen.

    Returns:
        The epochs of the loader that is trained on; none where nothing trained. O(batches).

    Example:
        >>> epochs_of(Run(ranks=()))
        ()
    """
    trained = [(each, each.trained) for each in run.ranks]
    parts = [_parts(rank, loader) for rank, loader in trained if loader is not None]
    loader = next((loader for _, loader in trained if loader is not None), None)
    if loader is None:
        return ()
    made = []
    for number in range(max(map(len, parts))):
        begun = [part[number] for part in parts if number < len(part)]
        passes = tuple(each for each, _ in begun)
        updates = tuple(zip(*(each for _, each in begun), strict=False))
        made.append(Epoch(loader, passes, updates, run.world_size))
    return tuple(made)


def _parts(rank: Rank, loader: Loader) -> list[tuple[Pass, list[Update]]]:
    """Return the passes of a rank, each with the updates that were made of its batches."""
    parts: list[tuple[Pass, list[Update]]] = [(each, []) for each in loader.passes if each.batches]
    number = {id(one): at for at, (each, _) in enumerate(parts) for one in each.batches}
    for update in rank.updates:
        if update.batches and id(update.batches[-1]) in number:
            parts[number[id(update.batches[-1])]][1].append(update)
    return parts


def beginning(each: Pass) -> IntArray:
    """Return the samples of a pass up to the first batch with unknown samples.

    Example:
        >>> beginning(Pass((), is_complete=True))
        array([], dtype=int64)
    """
    known: list[IntArray] = []
    for batch in each.batches:
        if batch.samples is None:
            break
        known.append(batch.samples)
    return np.concatenate(known) if known else np.empty(0, np.int64)


def same_order(left: IntArray, right: IntArray) -> bool | None:
    """Say whether two sequences of samples begin in the same order, and not by chance.

    Args:
        left: integer[n].
        right: integer[m].

    Returns:
        None: the common beginning is too short, or holds too few different samples, to tell.

    Example:
        >>> ten, twenty = np.arange(10), np.arange(20)
        >>> same_order(twenty, twenty), same_order(twenty, twenty[::-1]), same_order(ten, ten)
        (True, False, None)
    """
    size = min(left.size, right.size, _LOOKED_AT)
    if not np.array_equal(left[:size], right[:size]):
        return False
    # The same samples have as many orders as there are permutations that change something.
    counts = np.unique(left[:size], return_counts=True)[1]
    orders = math.lgamma(size + 1)
    for count, times in enumerate(np.bincount(counts).tolist()):
        orders -= times * math.lgamma(count + 1)
    return True if orders / math.log(10) >= CERTAIN else None


def is_plain(loader: Loader) -> bool:
    """Say whether a loader promises every sample of its data set once.

    Example:
        >>> is_plain(Loader((), sampler="DistributedSampler", batch_sampler="BatchSampler"))
        True
    """
    return loader.sampler in _WHOLE and loader.batch_sampler in _PLAIN_BATCHES


def has_own_batches(loader: Loader) -> bool:
    """Say whether the batches of a loader are made by something other than a library's sampler.

    Example:
        >>> has_own_batches(Loader((), sampler="Buckets", batch_sampler="Buckets"))
        True
    """
    return loader.sampler not in _WHOLE | _FREE or loader.batch_sampler not in _PLAIN_BATCHES


def draws(loader: Loader) -> bool:
    """Say whether a loader repeats samples or leaves some out on purpose, by its names.

    Example:
        >>> [draws(Loader((), sampler=each)) for each in ("MPerClassSampler", "RandomSampler")]
        [True, False]
    """
    names = f"{loader.sampler} {loader.batch_sampler}".lower()
    return loader.replaces or loader.is_planned or any(each in names for each in _DRAWING)


def chooses(loader: Loader) -> bool:
    """Say whether a loader is for a part of its data set or the rest of an epoch, by its names.

    Example:
        >>> chooses(Loader((), sampler="SubsetRandomSampler"))
        True
    """
    names = f"{loader.sampler} {loader.batch_sampler}".lower()
    return "subset" in names or "skip" in names
