"""Samples in groups, drawn from each in passes: every member once before any comes again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.order.pools import Pools
from batchwright.seeding import generator, random_bits, shuffled
from batchwright.typing import FloatArray, IntArray, LengthArray

_TOGETHER = 1 << 10
"""Draws that are shuffled together: few, for often no more are needed."""


@dataclass(frozen=True, eq=False)
class Strata:
    """Samples in groups from which an epoch draws in given numbers.

    A stratum is drawn from in *passes*: each is a random sequence of all its members, and the
    next begins where one ends, also from epoch to epoch. So no member is drawn twice before
    every other was drawn once, whatever the numbers.

    Attributes:
        members: int64[m], sample indices, stratum after stratum.
        offsets: int64[k + 1], where strata begin and end.

    Example:
        >>> strata = Strata.by(np.array([7, 3, 7, 7]))
        >>> [stratum.tolist() for stratum in strata.each()]
        [[1], [0, 2, 3]]
    """

    members: IntArray
    offsets: IntArray

    @classmethod
    def by(cls, labels: npt.ArrayLike) -> Self:
        """Make a stratum of each distinct label, in the sequence of labels. O(n log n)."""
        _, codes = np.unique(np.asarray(labels), return_inverse=True)
        sizes = np.bincount(codes.ravel())
        members = np.argsort(codes.ravel(), kind="stable").astype(np.int64, copy=False)
        return cls(members, np.concatenate(([0], np.cumsum(sizes))))

    def __len__(self) -> int:
        """Count the strata."""
        return self.offsets.size - 1

    @property
    def sizes(self) -> IntArray:
        """Members of each stratum, int64[k]."""
        return np.diff(self.offsets)

    def each(self) -> list[IntArray]:
        """Return the members of every stratum."""
        return np.split(self.members, self.offsets[1:-1])

    def mean_lengths(self, lengths: LengthArray) -> FloatArray:
        """Return the mean length of the members of each stratum, float64[k]; 1 for an empty one."""
        sums = np.zeros(len(self))
        for index, stratum in enumerate(self.each()):
            sums[index] = lengths[stratum].sum(dtype=np.float64)
        means: FloatArray = np.where(self.sizes, sums / np.maximum(self.sizes, 1), 1.0)
        return means

    def draw(
        self, counts: IntArray, *, seed: int, drawn: IntArray | None = None, epoch: int = 0
    ) -> Pools:
        """Draw pools.

        Args:
            counts: int64[p, k], how many of each stratum come into each pool.
            seed: Which passes.
            drawn: int64[k], how many were drawn from each before. None: none.
            epoch: Where passes do not go on from epoch to epoch: which one.

        Returns:
            The pools, the members of each in random order within their strata. O(m log m), with
            a loop over strata, not over samples.

        Raises:
            PlanError: If an empty stratum is to be drawn from.
        """
        pools, totals = counts.sum(axis=1), counts.sum(axis=0)
        if (totals[self.sizes == 0] > 0).any():
            raise PlanError("an empty stratum is to be drawn from: give it no weight.")
        ends = np.concatenate(([0], np.cumsum(pools)))
        # Where each stratum's part of each pool begins.
        begins = ends[:-1, None] + np.cumsum(counts, axis=1) - counts
        members = np.empty(int(ends[-1]), dtype=np.int64)
        first = np.zeros_like(totals) if drawn is None else drawn
        for stratum in np.flatnonzero(totals).tolist():
            start = int(first[stratum])
            stream = self._stream(stratum, start, start + int(totals[stratum]), seed, epoch)
            of_pool = counts[:, stratum]
            shifts = begins[:, stratum] - (np.cumsum(of_pool) - of_pool)
            members[np.arange(stream.size) + np.repeat(shifts, of_pool)] = stream
        eligible = ((counts > 0) @ self.sizes)[pools > 0].min()
        offsets = ends[np.concatenate(([True], pools > 0))]
        return Pools(members, offsets, eligible=int(eligible), may_defer=True)

    def _stream(self, stratum: int, start: int, stop: int, seed: int, epoch: int) -> IntArray:
        """Return draws `start` to `stop` from a stratum's endless passes."""
        own = self.members[self.offsets[stratum] : self.offsets[stratum + 1]]
        passes = max(1, _TOGETHER // own.size)  # of a small stratum many are shuffled at once
        block = passes * own.size
        first = start // block
        parts = [
            _passes(own, passes, generator(seed, "passes", epoch, stratum, number))
            for number in range(first, -(-stop // block))
        ]
        stream = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return stream[start - first * block : stop - first * block]


def _passes(members: IntArray, passes: int, rng: np.random.Generator) -> IntArray:
    if passes == 1:
        return shuffled(members, rng)
    keys = random_bits(rng, passes * members.size).reshape(passes, members.size)
    return members[keys.argsort(axis=1)].ravel()
