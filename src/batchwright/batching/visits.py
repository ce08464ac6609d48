"""What an epoch visits under constraints, and where its batches have to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchwright._random import random_bits, sorted_by
from batchwright.typing import FloatArray, IntArray

_FULL = 8
"""Batches of a list of samples at least, about: one of them is less full."""


@dataclass(frozen=True, eq=False)
class Visits:
    """What an epoch visits, in random sequence, or in that of an order which binds it."""

    lengths: IntArray  # int64[m] or [m, k]
    segments: IntArray  # int64[m]: batches of different ones are never mixed
    keys: IntArray | None  # int64[m], from 0; -1: none
    sizes: IntArray | None  # int64[m], samples of each. None: one

    def take(self, which: IntArray) -> Visits:
        """Return some of them."""
        return Visits(
            self.lengths[which],
            self.segments[which],
            None if self.keys is None else self.keys[which],
            None if self.sizes is None else self.sizes[which],
        )

    def __len__(self) -> int:
        return len(self.lengths)


def lists_of(visits: Visits, shares: FloatArray | None, rng: np.random.Generator) -> IntArray:
    """Part segments into lists in which keys come as seldom as can be; return each visit's list.

    With `shares`, what each visit takes of a batch, a list fills several batches, or less than one
    where that is unavoidable. Without, no key comes twice in a list.
    """
    keys, segments = visits.keys, visits.segments
    assert keys is not None  # noqa: S101 -- who calls has looked
    _, segments = np.unique(segments, return_inverse=True)
    order = sorted_by(segments, keys + 1)  # of equal ones in the random sequence of the visits
    own_keys, own = keys[order], segments[order]
    starts = np.flatnonzero((np.diff(own_keys, prepend=-2) != 0) | (np.diff(own, prepend=-1) != 0))
    counts = np.diff(starts, append=own.size)
    most = np.ones(int(own[-1]) + 1, dtype=np.int64)
    np.maximum.at(most, own[starts], np.where(own_keys[starts] >= 0, counts, 1))
    lists = most
    if shares is not None:
        batches = np.bincount(segments, shares)
        few = np.minimum(most, np.maximum(batches // _FULL, 1).astype(np.int64))
        lists = np.where(most >= batches, most, few)
    begins = (random_bits(rng, starts.size) >> np.uint64(2)).view(np.int64)
    copy = np.arange(own.size) - np.repeat(starts, counts) + np.repeat(begins, counts)
    found = np.empty_like(own)
    found[order] = own * int(lists.max()) + copy % lists[own]
    return found


def parts_of(segments: IntArray) -> list[IntArray]:
    """Return the visits of each segment."""
    order = np.argsort(segments, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(segments[order])) + 1)


def stops_of(segments: IntArray, entries: tuple[IntArray, IntArray] | None) -> IntArray:
    """Return where a batch that begins at each place of a sequence has to end, int64[m]."""
    size = segments.size
    starts = np.flatnonzero(np.diff(segments, prepend=-1))
    stops = np.repeat(np.append(starts[1:], size), np.diff(starts, append=size))
    if entries is not None:
        place, keys = entries
        order = np.lexsort((place, keys))
        again = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        following = np.full(size, size)
        np.minimum.at(following, place[order[again]], place[order[again + 1]])
        stops = np.minimum(stops, np.minimum.accumulate(following[::-1])[::-1])
    return stops
