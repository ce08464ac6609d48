"""Sorted samples cut in stretches: each is spread over a run of batches, no two of a key in one.

The samples of a stretch are of like lengths, and each of its batches may hold as many as its
longest sample allows. So any of them may go to any of these batches: in the sequence of their keys,
one to each batch in turn, no two of a key meet, if no key has more samples than there are batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from batchwright._random import random_bits, shuffled, sorted_by
from batchwright.batching.packers import best_fit_decreasing
from batchwright.typing import FloatArray, IntArray

_MOST_PADDING = 1.02
"""Batches of a stretch over those of its samples one by one, from which on it is made shorter."""

_FEW = 16
"""Batches that samples of different sizes are spread over, where that pads little."""

_WORSE = 3
"""Wider stretches that are tried after the best."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """Samples to be cut, from long to short in each segment; equal ones in random sequence."""

    like: IntArray  # int64[m], the length that each is batched as
    allowed: IntArray  # int64[m], the samples of a batch whose longest it is
    segments: IntArray  # int64[m], rising: batches of different ones are never mixed
    keys: IntArray | None  # int64[m], from 0; -1: none
    sizes: IntArray | None  # int64[m], how many samples it counts for. None: one


def spread(given: Sizes, rng: np.random.Generator) -> IntArray:
    """Return the batch of each sample, int64[m].

    Batches hold no more than is allowed; no two samples of a key are in one, unless `sizes` are
    given. Near O(m log m), with some steps for each stretch.
    """
    if given.sizes is not None:
        return _packed(given, given.sizes, rng)
    starts, batches = _stretches(given)
    if given.keys is not None:
        return _dealt(given.keys, starts, batches, rng)
    samples = np.diff(starts, append=given.like.size)
    place = np.arange(given.like.size) - np.repeat(starts, samples)
    found = np.empty_like(place)
    order = shuffled(np.arange(place.size), rng, pools=np.append(starts, place.size))
    # Full batches, and of a last stretch one that is not.
    found[order] = np.repeat(np.cumsum(batches) - batches, samples)
    found[order] += place // np.repeat(given.allowed[starts], samples)
    return found


def spread_sequence(
    lengths: IntArray,
    keys: IntArray,
    rows_allowed: Callable[[IntArray], IntArray],
    rng: np.random.Generator,
) -> IntArray:
    """Cut a sequence of samples of several lengths in stretches, too: neighbours are alike.

    Takes lengths, int64[m, k], and the samples that a batch may hold for the longest of it in each
    column, never more for a longer one. Returns the batch of each sample, int64[m].
    """
    rows, size = rows_allowed(lengths), len(lengths)
    shares = np.append(0.0, np.cumsum(1.0 / rows))

    def wider(start: int) -> Iterator[tuple[int, int]]:
        batches, stop = 1, start
        while stop < size:
            near = lengths[start : start + batches * int(rows[start])]
            allowed = rows_allowed(np.maximum.accumulate(near, axis=0))
            fit = np.count_nonzero(batches * allowed >= np.arange(1, allowed.size + 1))
            stop = start + int(fit)
            yield stop, -(-int(fit) // int(allowed[fit - 1]))
            batches *= 2

    starts, many = [0], []
    while starts[-1] < size:
        stop, batches = _widened(keys, shares, starts[-1], wider(starts[-1]))
        starts.append(stop)
        many.append(batches)
    return _dealt(keys, np.array(starts[:-1]), np.array(many), rng)


def _dealt(
    keys: IntArray, starts: IntArray, batches: IntArray, rng: np.random.Generator
) -> IntArray:
    """Return the batch of each sample: in the sequence of keys, one to each batch in turn."""
    samples = np.diff(starts, append=keys.size)
    stretch = np.repeat(np.arange(starts.size), samples)
    place = np.arange(keys.size) - np.repeat(starts, samples)
    number = int(keys.max()) + 1
    ranks = np.append(shuffled(np.arange(number), rng), 0)[keys]
    alone = np.flatnonzero(keys < 0)
    ranks[alone] = number + shuffled(np.arange(alone.size), rng)
    found = np.empty_like(stretch)
    begins = np.repeat(np.cumsum(batches) - batches, samples)
    found[sorted_by(stretch, ranks)] = begins + place % np.repeat(batches, samples)
    return found


def _stretches(given: Sizes) -> tuple[IntArray, IntArray]:
    """Return where stretches begin, int64[s], and over how many batches each is spread."""
    ends, run_ends = _ends(given)
    shares = np.append(0.0, np.cumsum(1.0 / given.allowed))
    starts, many = [], []
    start, size = 0, given.like.size
    while start < size:
        rows, end = int(given.allowed[start]), int(ends[start])
        batches = -(-(int(run_ends[start]) - start) // rows)
        stop = min(end, start + batches * rows)
        batches = -(-(stop - start) // rows)
        if given.keys is not None:
            wider = _wider((start, end), rows, batches)
            stop, batches = _widened(given.keys, shares, start, wider)
        starts.append(start)
        many.append(batches)
        start = stop
    return np.array(starts, dtype=np.int64), np.array(many, dtype=np.int64)


def _wider(span: tuple[int, int], rows: int, batches: int) -> Iterator[tuple[int, int]]:
    """Go through ends of a stretch, and the batches that its samples fill."""
    start, end = span
    stop = start
    while stop < end:
        stop = min(end, start + batches * rows)
        yield stop, -(-(stop - start) // rows)
        batches *= 2


def _widened(
    keys: IntArray, shares: FloatArray, start: int, wider: Iterator[tuple[int, int]]
) -> tuple[int, int]:
    """Find where a stretch ends, and its batches: the fewest for what its samples take of one.

    A wider stretch pads more, and has a smaller share of its samples from one key.
    """
    best, worse = (np.inf, 0, 0), 0
    for stop, fewest in wider:
        most, share = _most(keys[start:stop]), shares[stop] - shares[start]
        needed = max(fewest, most)
        worse = 0 if needed / share < best[0] else worse + 1
        best = min(best, (needed / share, stop, needed))
        if most <= fewest or worse == _WORSE or fewest / share >= best[0]:
            break
    return best[1], best[2]


def _most(keys: IntArray) -> int:
    """Return how many of some samples have the most frequent key."""
    ordered = np.sort(keys)
    ordered = ordered[int(np.searchsorted(ordered, 0)) :]
    starts = np.flatnonzero(ordered[1:] != ordered[:-1])
    if not ordered.size:
        return 0
    return int(np.diff(starts, prepend=-1, append=ordered.size - 1).max())


def _ends(given: Sizes) -> tuple[IntArray, IntArray]:
    """Return where the segment of each sample ends, and the run of those like it."""
    size = given.like.size
    is_new = np.diff(given.segments, prepend=-1) != 0
    found = []
    for begins in (is_new, is_new | (np.diff(given.like, prepend=-1) != 0)):
        starts = np.flatnonzero(begins)
        found.append(np.repeat(np.append(starts[1:], size), np.diff(starts, append=size)))
    return found[0], found[1]


def _packed(given: Sizes, sizes: IntArray, rng: np.random.Generator) -> IntArray:
    """Fill the batches of each stretch with samples that count for several, by best fit."""
    ends, run_ends = _ends(given)
    shares = np.append(0.0, np.cumsum(sizes / given.allowed))
    held = np.append(0, np.cumsum(sizes))
    found = np.empty(sizes.size, dtype=np.int64)
    start = used = 0
    while start < sizes.size:
        rows, end = int(given.allowed[start]), int(ends[start])
        fewest = -(-int(held[run_ends[start]] - held[start]) // rows)
        batches = max(fewest, _FEW)
        while True:
            stop = int(np.searchsorted(held, held[start] + batches * rows, side="right")) - 1
            stop = max(start + 1, min(stop, end))
            padded = int(held[stop] - held[start]) / rows / (shares[stop] - shares[start])
            if batches <= fewest or padded <= _MOST_PADDING:
                break
            batches = max(fewest, batches // 2)
        too_large = np.flatnonzero(sizes[start:stop] > rows)
        stop = start + int(too_large[0]) if too_large.size else stop
        if held[stop] - held[start] <= rows:
            found[start:stop] = used
            start, used = stop, used + 1
            continue
        own = start + np.argsort(-sizes[start:stop], kind="stable")
        values, counts = np.unique(sizes[own], return_counts=True)
        cut = best_fit_decreasing(values[::-1], counts[::-1], rows)
        key = int(random_bits(rng, 1)[0])
        order, offsets = cut.all(np.arange(cut.num_batches), key, own.__getitem__)
        found[order] = used + np.repeat(np.arange(cut.num_batches), np.diff(offsets))
        used += cut.num_batches
        start = stop
    return found
