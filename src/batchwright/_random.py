"""Random numbers that are a function of (seed, purpose, epoch, …), and shuffles made of them.

Only the raw output of a bit generator is used: NumPy promises that stream across versions and
machines, which it does not promise for `Generator.permutation` and its like.
"""

from __future__ import annotations

import operator
import zlib
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.typing import FloatArray, IntArray

BitArray: TypeAlias = npt.NDArray[np.uint64]

BLOCK = 1 << 17
"""Entries worked on at a time, so that temporaries stay in the cache."""


def generator(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Make the generator that belongs to a seed, a purpose and further integers.

    The same arguments give the same stream on every rank, worker and machine; different ones
    give independent streams. No global generator is read or moved.

    Returns:
        A fresh generator.

    Example:
        >>> a, b = generator(0, "order", 3), generator(0, "order", 3)
        >>> bool(a.random() == b.random())
        True
    """
    try:
        entropy = [operator.index(value) for value in (seed, *keys)]
    except TypeError as error:
        raise PlanError(
            f"seed and epoch must be integers, got seed={seed!r} and {keys!r}."
        ) from error
    if min(entropy) < 0:
        raise PlanError(f"seed and epoch must not be negative, got seed={seed} and {keys}.")
    entropy.insert(1, zlib.crc32(purpose.encode()))
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def random_bits(rng: np.random.Generator, size: int) -> BitArray:
    """Draw `size` words of 64 random bits, uint64[size]."""
    return np.asarray(rng.bit_generator.random_raw(size), dtype=np.uint64)


def shuffled(
    members: IntArray, rng: np.random.Generator, *, pools: IntArray | None = None
) -> IntArray:
    """Shuffle samples, int64[m], each inside its own pool; `pools` are offsets, int64[p + 1].

    One sort of 64-bit keys (random bits above, sample index below) costs about a third of
    `Generator.permutation`: it moves through memory in order.

    Returns:
        int64[m], a new array. O(m log m).

    Example:
        >>> order = shuffled(np.arange(6), generator(0, "order", 0), pools=np.array([0, 3, 6]))
        >>> sorted(order[:3].tolist()), sorted(order[3:].tolist())
        ([0, 1, 2], [3, 4, 5])
    """
    if not members.size:
        return members.copy()
    keys = np.empty(members.size, dtype=np.uint64)
    low = np.uint64((1 << int(members.max()).bit_length()) - 1)
    for start in range(0, members.size, BLOCK):
        block = members[start : start + BLOCK]
        key = random_bits(rng, block.size)
        key &= ~low
        key |= block.astype(np.uint64)
        keys[start : start + BLOCK] = key
    edges = [0, keys.size] if pools is None else pools.tolist()
    for start, stop in pairwise(edges):
        keys[start:stop].sort()
    keys &= low
    return keys.view(np.int64)


def sorted_by(*columns: IntArray) -> IntArray:
    """Sort stably by columns of numbers of at least 0, int64[m] each, the first one first.

    Returns:
        int64[m], the places from first to last. O(m log m), in one sort of 64-bit keys where the
        numbers fit into these.

    Example:
        >>> sorted_by(np.array([1, 0, 1]), np.array([2, 5, 0])).tolist()
        [1, 2, 0]
    """
    places = np.arange(columns[0].size)
    widths = [int(each.max(initial=0)).bit_length() for each in (*columns, places)]
    if sum(widths) > 64:
        return np.lexsort(columns[::-1])
    keys = np.zeros(places.size, dtype=np.uint64)
    for column, width in zip((*columns, places), widths, strict=True):
        keys <<= np.uint64(width)
        keys |= column.astype(np.uint64)
    keys.sort()
    keys &= np.uint64((1 << widths[-1]) - 1)
    return keys.view(np.int64)


def ranked(scores: FloatArray, rng: np.random.Generator) -> IntArray:
    """Sort samples from low scores to high, equal ones in random order.

    Scores that agree in about eight digits count as equal: the rest of a 64-bit key holds the
    sample. Four times quicker than a stable sort of floats.

    Returns:
        int64[n]. O(n log n).

    Example:
        >>> ranked(np.array([0.5, -2.0, 7.0]), generator(0, "x")).tolist()
        [1, 0, 2]
    """
    mixed = shuffled(np.arange(scores.size), rng)
    bits = (scores[mixed] + 0.0).view(np.uint64)  # there is one zero now
    # As integers, positive floats sort like themselves, and negative ones the other way round.
    negative = bits >> np.uint64(63) == 1
    keys = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    low = np.uint64((1 << (scores.size - 1).bit_length()) - 1)
    keys &= ~low
    keys |= np.arange(scores.size, dtype=np.uint64)
    keys.sort()
    keys &= low
    return mixed[keys.view(np.int64)]
