"""Which batch comes at which place of an epoch: updates of all lengths, shared among ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from batchwright._keyed import all_permuted, hashed, mixed, permuted
from batchwright.typing import IntArray


@dataclass(frozen=True)
class Placement:
    """Place batches in updates: each gets one random batch of every length stratum.

    An update is ``world_size * accumulate`` consecutive places; place `i` of it goes to rank
    ``i % world_size``. A part of an epoch may begin and end inside an update: batches there are
    evenly spaced ones.

    Example:
        >>> placement = Placement(6, start=0, world_size=1, accumulate=2, key=7)
        >>> sorted(placement.rank(place) // 3 for place in (4, 5))
        [0, 1]
    """

    num_batches: int
    start: int  # place in the epoch at which the part begins
    world_size: int
    accumulate: int
    key: int
    _head: int = field(init=False, repr=False, compare=False)
    _inner: int = field(init=False, repr=False, compare=False)  # batches of whole updates
    _edges: IntArray = field(init=False, repr=False, compare=False)  # int64[e], ranks of the others
    _front: IntArray = field(init=False, repr=False, compare=False)  # of those before the updates
    _back: IntArray = field(init=False, repr=False, compare=False)  # of those after them
    _other: int = field(init=False, repr=False, compare=False)  # another key

    def __post_init__(self) -> None:
        update = self.world_size * self.accumulate
        head = min(-self.start % update, self.num_batches)
        inner = (self.num_batches - head) // update * update
        edges = self.num_batches - inner
        taken = (np.arange(edges) * self.num_batches + self.num_batches // 2) // max(edges, 1)
        # Those at the front are evenly spaced, and so nearly are the others.
        front = (2 * np.arange(head) + 1) * edges // max(2 * head, 1)
        for name, value in (
            ("_head", head),
            ("_inner", inner),
            ("_edges", taken),
            ("_front", taken[front]),
            ("_back", np.delete(taken, front)),
            ("_other", mixed(self.key ^ 1)),
        ):
            object.__setattr__(self, name, value)

    def rank(self, place: int) -> int:
        """Return which batch comes at a place, counted from the longest."""
        head, inner, edges = self._head, self._inner, self._edges
        if place < head:
            return int(self._front[permuted(place, head, self._other)])
        if place >= head + inner:
            edge = place - head - inner
            return int(self._back[permuted(edge, self._back.size, self._other)])
        world_size, update = self.world_size, self.world_size * self.accumulate
        updates, (number, slot) = inner // update, divmod(place - head, update)
        turn, rank = divmod(slot, world_size)
        if turn % 2:  # there and back, so that the sums of ranks even out
            rank = world_size - 1 - rank
        stratum = (turn * world_size + rank + hashed(number, self.key) % update) % update
        found = stratum * updates + permuted(number, updates, hashed(stratum, self._other))
        return found + int(self._passed(found)) if edges.size else found

    def ranks(self, places: IntArray) -> IntArray:
        """Return what `rank` does, for many places: of all places, a permutation."""
        head, inner, edges = self._head, self._inner, self._edges
        if not edges.size:
            return self._strata(places)
        found = np.empty_like(places)
        inside = (places >= head) & (places < head + inner)
        if inside.any():
            ranks = self._strata(places[inside] - head)
            found[inside] = ranks + self._passed(ranks)
        for ranks, begin in ((self._front, 0), (self._back, head + inner)):
            own = (places >= begin) & (places < begin + ranks.size)
            words = (places[own] - begin).view(np.uint64)
            found[own] = ranks[all_permuted(words, ranks.size, self._other).view(np.int64)]
        return found

    def _strata(self, places: IntArray) -> IntArray:
        world_size, update = self.world_size, self.world_size * self.accumulate
        updates = self._inner // update
        numbers = places // update
        slots = places - numbers * update
        turns = slots // world_size
        ranks = slots - turns * world_size
        ranks += (turns & 1) * (world_size - 1 - 2 * ranks)
        words = numbers.view(np.uint64)
        strata = hashed(words, self.key) % np.uint64(update)
        strata += (turns * world_size + ranks).view(np.uint64)
        strata -= (strata >= update) * np.uint64(update)
        found = all_permuted(words, updates, hashed(strata, self._other))
        strata *= np.uint64(updates)
        found += strata
        return found.view(np.int64)

    def _passed(self, ranks: int | IntArray) -> IntArray:
        """Count the batches at the edges that come before batches of whole updates."""
        edges = self._edges - np.arange(self._edges.size)
        passed: IntArray = np.searchsorted(edges, ranks, side="right")
        return passed
