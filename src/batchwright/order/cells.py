"""Samples in cells, each of one stratum and one length: so that parts of an epoch are counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchwright._keyed import PRIMES, hash_of, hashed, scaled
from batchwright._random import BitArray, generator, random_bits
from batchwright.index import from_long_to_short
from batchwright.typing import FloatArray, IntArray, Sorted

if TYPE_CHECKING:
    from batchwright.batches import Entries

_TOP = np.uint64(58)
_BITS = np.uint64(18)
_BLOCK = 1 << 18
_LOW = np.uint64(_BLOCK - 1)


@dataclass(frozen=True, eq=False)
class Cells:
    """Samples sorted by stratum (group, class, block), and from long to short in each.

    A stratum is drawn from in *passes*: each is a sequence of all its members, and the next begins
    where one ends, also from epoch to epoch. So no member is drawn twice before every other was
    drawn once, whatever the numbers. A pass has its share of each length at any time.
    """

    samples: Sorted  # all of them
    members: npt.NDArray[np.unsignedinteger]  # [m], what is taken, cell after cell
    offsets: IntArray  # int64[c + 1], where cells begin and end
    lengths: IntArray  # int64[c]
    strata: IntArray  # int64[k + 1], where strata begin and end among the cells

    @classmethod
    def of(
        cls, samples: Sorted, strata: IntArray, num_strata: int, *, shuffle: bool = False
    ) -> Cells:
        """Sort samples by their strata, integer[n], from 0; those of `num_strata` are in none.

        Members of a cell are in the order of the data, or shuffled, the same for every seed: so
        that draws in equal steps are random ones. O(n), in blocks: 4 bytes a sample are kept, 20
        are needed on the way.
        """
        size = int(samples.counts.sum())
        ids = np.empty(size, np.min_scalar_type(max(1 << 16, size, strata.size)))
        ranks = (num_strata - strata).astype(np.min_scalar_type(num_strata))  # the first: largest
        rank = np.empty(size, ranks.dtype)
        many = np.zeros(num_strata + 1, dtype=np.int64)
        blocks = [slice(at, min(at + _BLOCK, size)) for at in range(0, size, _BLOCK)]
        for own in blocks:
            taken = samples.take(np.arange(own.start, own.stop))
            ids[own] = taken
            rank[own] = ranks[samples.entries(taken).samples]
            many += np.bincount(rank[own], minlength=num_strata + 1)
        filled = np.flatnonzero(many)[::-1]
        order = from_long_to_short(rank, filled, many[filled])[: size - int(many[0])]
        strata_begin = np.concatenate(([0], np.cumsum(many[:0:-1])))
        which = np.arange(samples.values.size, dtype=np.min_scalar_type(samples.values.size))
        length = np.repeat(which, samples.counts)[order]
        begins = np.zeros(order.size + 1, dtype=np.bool_)  # where strata do, or the length changes
        begins[strata_begin] = True
        for own in blocks:
            near = length[own.start : own.stop + 1]
            begins[own.start + 1 : own.stop + 1][: near.size - 1] |= near[1:] != near[:-1]
        offsets = np.flatnonzero(begins)
        members = ids[order]
        if shuffle:
            rng = generator(0, "cells")
            for own in blocks:
                members[own] = members[own][
                    _shuffled_places(begins[own][: order.size - own.start], rng)
                ]
        return cls(
            samples,
            members,
            offsets,
            samples.values[length[offsets[:-1]]],
            offsets.searchsorted(strata_begin),
        )

    def __len__(self) -> int:
        return self.strata.size - 1

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without what can be counted again."""
        return Cells, (self.samples, self.members, self.offsets, self.lengths, self.strata)

    @cached_property
    def sizes(self) -> IntArray:
        """Members of each cell, int64[c]."""
        return np.diff(self.offsets)

    @cached_property
    def members_of(self) -> IntArray:
        """Members of each stratum, int64[k]."""
        return np.diff(self.offsets[self.strata])

    @property
    def mean_lengths(self) -> FloatArray:
        """The mean length of the members of each stratum, float64[k]; 1 for an empty one."""
        tokens = np.bincount(self._stratum, self.sizes * self.lengths, len(self))
        means: FloatArray = np.where(self.members_of, tokens / np.maximum(self.members_of, 1), 1.0)
        return means

    @cached_property
    def identity(self) -> str:
        """Hash of all members and where cells begin. O(m) when first asked for."""
        columns = (self.members.view(np.uint8), self.offsets.view(np.uint8))
        return hash_of(np.concatenate(columns).tobytes() + self.samples.identity().encode())

    def counts(self, drawn: IntArray, key: int) -> IntArray:
        """Return how often each cell comes in the first draws from every stratum.

        Counts of a stratum add up to its draws, never fall as these grow, and after whole passes
        are multiples of the members. Cells are halved again and again, and draws shared out between
        the halves, rounded at random.

        Args:
            drawn: int64[p, k], draws of each stratum.
            key: Of the rounding.

        Returns:
            int64[p, c]. O(p · c).
        """
        passes, rest = np.divmod(drawn.T, np.maximum(self.members_of, 1)[:, None])
        own = hashed(np.arange(len(self), dtype=np.uint64), key)[:, None]
        keys = hashed(passes.view(np.uint64), own)
        found = np.zeros((self.sizes.size, len(drawn)), dtype=np.uint64)
        filled = np.flatnonzero(self.members_of)
        found[self.strata[filled]] = rest[filled]
        for low, middle, part, whole in self._halves:
            both = found[low]
            upper = scaled(hashed(middle.view(np.uint64)[:, None], keys[self._stratum[low]]), whole)
            upper += both * part
            upper //= whole
            found[low] = upper
            both -= upper
            found[middle] = both
        counts = found.view(np.int64)
        counts += passes[self._stratum] * self.sizes[:, None]
        return np.ascontiguousarray(counts.T)

    def drawn(self, before: IntArray, until: IntArray, key: int) -> Drawn:
        """Return the draws from each cell, int64[c], after some and until others."""
        cells = self._from_long_to_short
        cells = cells[until[cells] > before[cells]]
        return Drawn(self, cells, before[cells], until[cells] - before[cells], key)

    def all_of(self, strata: IntArray) -> Drawn:
        """Return all members of some strata, int64[k]."""
        many = self.strata[strata + 1] - self.strata[strata]
        cells = np.repeat(self.strata[strata] - np.cumsum(many) + many, many)
        cells += np.arange(cells.size)
        cells = cells[np.argsort(-self.lengths[cells], kind="stable")]
        return Drawn(self, cells, np.zeros_like(cells), self.sizes[cells], 0)

    @cached_property
    def _from_long_to_short(self) -> IntArray:
        return np.argsort(-self.lengths, kind="stable")

    @cached_property
    def _stratum(self) -> IntArray:
        return np.repeat(np.arange(len(self)), np.diff(self.strata))

    @cached_property
    def _halves(self) -> list[tuple[IntArray, IntArray, BitArray, BitArray]]:
        """Halve runs of cells until each is one.

        Returns the first cell of each run and of its second half, int64[h], and the members of its
        first half and of all of it, uint64[h, 1]; the largest runs first.
        """
        low, high, steps = self.strata[:-1], self.strata[1:], []
        while (many := high - low > 1).any():
            low, high = low[many], high[many]
            middle = (low + high) >> 1
            sums = self.offsets[[low, middle, high]].view(np.uint64)
            part, whole = sums[1:] - sums[0]
            steps.append((low, middle, part[:, None], whole[:, None]))
            low, high = np.concatenate((low, middle)), np.concatenate((middle, high))
        return steps


def _shuffled_places(begins: npt.NDArray[np.bool_], rng: np.random.Generator) -> IntArray:
    """Shuffle the places of up to 2**18 members, each inside its own cell, int64[m]."""
    keys = random_bits(rng, begins.size) >> _BITS  # cell | random bits | place
    keys &= ~_LOW
    keys |= np.arange(begins.size, dtype=np.uint64)
    keys |= (np.cumsum(begins) - begins[:1]).astype(np.uint64) << (np.uint64(64) - _BITS)
    keys.sort()
    keys &= _LOW
    return keys.view(np.int64)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws from cells, from long to short; see `Sorted`."""

    cells: Cells
    which: IntArray  # int64[d], the cells, from long to short
    before: IntArray  # int64[d], how many members were drawn before: so many draws are passed over
    many: IntArray  # int64[d], how many are drawn
    key: int  # of the sequence of passes
    values: IntArray = field(init=False)
    counts: IntArray = field(init=False)
    _ends: IntArray = field(init=False)
    _shifts: IntArray = field(init=False)  # from positions to draws of a cell

    def __post_init__(self) -> None:
        lengths, ends = self.cells.lengths[self.which], np.cumsum(self.many)
        starts = np.flatnonzero(np.diff(lengths, prepend=0))
        for name, value in (
            ("values", lengths[starts]),
            ("counts", np.diff(ends[starts] - self.many[starts], append=ends[-1:])),
            ("_ends", ends),
            ("_shifts", self.before + self.many - ends),
        ):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without what can be counted again."""
        return Drawn, (self.cells, self.which, self.before, self.many, self.key)

    @cached_property
    def _columns(self) -> tuple[BitArray, BitArray, BitArray, bool]:
        """Members of each cell, its key, and where it begins; and whether all are taken once."""
        sizes = self.cells.sizes[self.which]
        is_whole = not self.before.any() and np.array_equal(sizes, self.many)
        keys = hashed(self.which.view(np.uint64), self.key)
        begins = self.cells.offsets[self.which]
        return sizes.view(np.uint64), keys, begins.view(np.uint64), is_whole

    def take(self, positions: IntArray) -> IntArray:
        """Return the samples, or pieces of samples, at some positions, int64[...].

        Each pass over a cell goes through its members in equal steps, from a random one on.
        """
        sizes, keys, begins, is_whole = self._columns
        at = self._ends.searchsorted(positions, side="right")
        place = (positions + self._shifts[at]).view(np.uint64)
        if not is_whole:
            size = sizes[at]
            passes = place // size
            words = hashed(passes, keys[at])
            passes *= size
            place -= passes
            place *= PRIMES[(words >> _TOP).view(np.int64)]
            place += scaled(words, size)
            place %= size
        place += begins[at]
        found: IntArray = self.cells.members[place.view(np.int64)].astype(np.int64)
        return found

    def entries(self, taken: npt.NDArray[np.integer[Any]]) -> Entries:
        """Return the samples of what was taken, and where in them pieces begin."""
        return self.cells.samples.entries(taken)

    def identity(self) -> str:
        """Hash the draws, and what they are drawn from."""
        columns = np.concatenate((self.which, self.before, self.many)).astype("<i8")
        return f"{self.cells.identity} {hash_of(columns.tobytes())} {self.key}"
