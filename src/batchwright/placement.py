"""Which batch is at which place of an epoch: updates of all lengths, divided among ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from batchwright._keyed import all_permuted, hashed, mixed, permuted
from batchwright._random import BitArray
from batchwright.typing import IntArray


@dataclass(frozen=True, repr=False)
class Placement:
    """Place batches in updates: each gets one random batch of every length stratum.

    An update is ``world_size * accumulate`` consecutive places; its place `i` goes to rank
    ``i % world_size``. A part of an epoch may begin and end within an update: the batches there are
    evenly spaced over all lengths.

    With a `cycle`, there are `cycle` times as many strata: an update gets one batch of every
    `cycle`-th stratum, and `cycle` consecutive updates get batches of all. If nodes begin at
    different phases, every update has batches of all strata, even if a node has only a few.

    Example:
        >>> placement = Placement(6, start=0, world_size=1, accumulate=2, key=7)
        >>> sorted(placement.rank(place) // 3 for place in (4, 5))
        [0, 1]
    """

    num_batches: int
    start: int  # the place in the epoch at which the part begins
    world_size: int
    accumulate: int
    key: int
    cycle: int = 1
    phase: int = 0
    _head: int = field(init=False, repr=False, compare=False)
    _inner: int = field(init=False, repr=False, compare=False)  # batches of whole updates
    _edges: IntArray = field(init=False, repr=False, compare=False)  # int64[e], ranks of the others
    _front: IntArray = field(init=False, repr=False, compare=False)  # of those before the updates
    _back: IntArray = field(init=False, repr=False, compare=False)  # of those after them
    _other: int = field(init=False, repr=False, compare=False)  # another key

    def __post_init__(self) -> None:
        turn = self._turn
        head = min(-self.start % turn, self.num_batches)
        inner = (self.num_batches - head) // turn * turn
        ends = self._ends if self.cycle == 1 else self._ends_by_stratum
        edges, front, back = ends(head, self.num_batches - inner - head)
        for name, value in (
            ("_head", head),
            ("_inner", inner),
            ("_edges", edges),
            ("_front", front),
            ("_back", back),
            ("_other", mixed(self.key ^ 1)),
        ):
            object.__setattr__(self, name, value)

    def _ends(self, head: int, tail: int) -> tuple[IntArray, IntArray, IntArray]:
        """Return evenly spaced batches for the places at the edges: all, those before, after."""
        edges = head + tail
        taken = (np.arange(edges) * self.num_batches + self.num_batches // 2) // max(edges, 1)
        # Those at the front are evenly spaced, and the others nearly so.
        front = (2 * np.arange(head) + 1) * edges // max(2 * head, 1)
        return taken, taken[front], np.delete(taken, front)

    def _ends_by_stratum(self, head: int, tail: int) -> tuple[IntArray, IntArray, IntArray]:
        """Return batches of the strata of these places: the adjacent parts have the others."""
        slots = np.concatenate((self.start % self._turn + np.arange(head), np.arange(tail)))
        thirds = 3 * self._stratum(slots).view(np.int64) + 1  # thirds of strata: none occurs twice
        thirds[head:] += 1
        if self.num_batches >= 3 * self._turn:
            ranks = thirds * self.num_batches // (3 * self._turn)
        else:
            evenly, _, _ = self._ends(head, tail)
            ranks = evenly[thirds.argsort().argsort()]
        return np.sort(ranks), ranks[:head], ranks[head:]

    def __repr__(self) -> str:
        """Write the settings; without a cycle of 1, which hashes of saved plans do not have."""
        names = ["num_batches", "start", "world_size", "accumulate", "key"]
        names += ["cycle", "phase"] if self.cycle > 1 else []
        return f"Placement({', '.join(f'{name}={getattr(self, name)}' for name in names)})"

    def rank(self, place: int) -> int:
        """Return the batch at a place, counted from the longest."""
        head, inner, edges = self._head, self._inner, self._edges
        if not head <= place < head + inner:
            own, edge = (self._front, place) if place < head else (self._back, place - head - inner)
            return int(own[edge if self.cycle > 1 else permuted(edge, own.size, self._other)])
        world_size, update = self.world_size, self.world_size * self.accumulate
        updates = inner // (update * self.cycle)
        number, slot = divmod(place - head, update * self.cycle)
        step, slot = divmod(slot, update)
        turn, rank = divmod(slot, world_size)
        if turn % 2:  # in alternating directions, so that the sums of ranks even out
            rank = world_size - 1 - rank
        stratum = (turn * world_size + rank + hashed(number, self.key) % update) % update
        if self.cycle > 1:
            stratum = stratum * self.cycle + (step + self.phase) % self.cycle
        found = stratum * updates + permuted(number, updates, hashed(stratum, self._other))
        return found + int(self._passed(found)) if edges.size else found

    def ranks(self, places: IntArray) -> IntArray:
        """Return what `rank` does, for many places; for all places, a permutation."""
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
            if self.cycle == 1:
                words = all_permuted(words, ranks.size, self._other)
            found[own] = ranks[words.view(np.int64)]
        return found

    def _strata(self, places: IntArray) -> IntArray:
        updates = self._inner // self._turn
        numbers = places // self._turn
        words = numbers.view(np.uint64)
        strata = self._stratum(places - numbers * self._turn, words)
        found = all_permuted(words, updates, hashed(strata, self._other))
        strata *= np.uint64(updates)
        found += strata
        return found.view(np.int64)

    def _stratum(self, slots: IntArray, words: BitArray | None = None) -> BitArray:
        """Return the stratum of each slot of a turn; with `words`, shifted by the turn's number."""
        world_size, update = self.world_size, self.world_size * self.accumulate
        steps = slots // update
        slots = slots - steps * update
        turns = slots // world_size
        ranks = slots - turns * world_size
        ranks += (turns & 1) * (world_size - 1 - 2 * ranks)
        strata = (turns * world_size + ranks).view(np.uint64)
        if words is not None:
            strata += hashed(words, self.key) % np.uint64(update)
            strata -= (strata >= update) * np.uint64(update)
        if self.cycle > 1:
            strata *= np.uint64(self.cycle)
            strata += ((steps + self.phase) % self.cycle).view(np.uint64)
        return strata

    @property
    def _turn(self) -> int:
        """The number of consecutive batches that have all strata once."""
        return self.world_size * self.accumulate * self.cycle

    def _passed(self, ranks: int | IntArray) -> IntArray:
        """Count the batches at the edges that come before batches of whole updates."""
        edges = self._edges - np.arange(self._edges.size)
        passed: IntArray = np.searchsorted(edges, ranks, side="right")
        return passed


@dataclass(frozen=True)
class Spanning:
    """Places the batches of a part that several nodes share: each gets evenly spaced ones.

    Example:
        >>> first = Placement(1, start=3, world_size=1, accumulate=1, key=7)
        >>> both = Spanning((first, Placement(2, start=0, world_size=1, accumulate=1, key=8)))
        >>> both.rank(0), sorted(both.ranks(np.arange(3)).tolist())
        (1, [0, 1, 2])
    """

    placements: tuple[Placement, ...]
    _ends: IntArray = field(init=False, repr=False, compare=False)
    _ranks: tuple[IntArray, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = [each.num_batches for each in self.placements]
        owners = np.repeat(np.arange(len(sizes)), sizes)
        spaced = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
        owners = owners[np.argsort(spaced, kind="stable")]
        ranks = tuple(np.flatnonzero(owners == number) for number in range(len(sizes)))
        object.__setattr__(self, "_ends", np.cumsum(sizes))
        object.__setattr__(self, "_ranks", ranks)

    @property
    def num_batches(self) -> int:
        """The number of batches of the part."""
        return int(self._ends[-1])

    def rank(self, place: int) -> int:
        """Return which batch comes at a place, counted from the longest."""
        own = int(self._ends.searchsorted(place, side="right"))
        before = int(self._ends[own - 1]) if own else 0
        return int(self._ranks[own][self.placements[own].rank(place - before)])

    def ranks(self, places: IntArray) -> IntArray:
        """Return what `rank` does, for many places."""
        owners = self._ends.searchsorted(places, side="right")
        found = np.empty_like(places)
        for own in np.unique(owners).tolist():
            is_own = owners == own
            before = int(self._ends[own - 1]) if own else 0
            found[is_own] = self._ranks[own][self.placements[own].ranks(places[is_own] - before)]
        return found
