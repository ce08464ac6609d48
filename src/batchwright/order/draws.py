"""Draws from groups of samples: whole numbers that follow weights which change over training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from batchwright._random import generator, random_bits, shuffled
from batchwright.errors import PlanError
from batchwright.order.pools import Pools
from batchwright.typing import FloatArray, IntArray, LengthArray

STRETCH = 1 << 10
"""Epochs that are drawn one by one, at most."""

_STEPS = 1 << 7
"""The steps in which all epochs before those are added up."""

_TOGETHER = 1 << 10
"""Draws from a small stratum that are shuffled together."""


def apportioned(target: FloatArray, owed: FloatArray) -> tuple[IntArray, FloatArray]:
    """Round a pool's target counts, float64[k], and carry what is owed to the next pool.

    Guarantees that no count is negative, that over all pools so far they add up to the rounded
    sum of the targets, and that each stratum stays less than one sample away from its target, as
    long as targets drift rather than jump. (Error diffusion; rounding cumulated targets instead
    gives negative numbers now and then.)
    """
    due = owed + target
    counts = np.maximum(np.floor(due + 1e-9), 0.0)
    short = max(0, round(float(due.sum()))) - int(counts.sum())
    if short > 0:
        # Largest first; of equals the first stratum, on any machine.
        counts[np.argsort(counts - due, kind="stable")[:short]] += 1
    elif short < 0:
        least = np.argsort(np.where(counts > 0, due - counts, np.inf), kind="stable")
        counts[least[:-short]] -= 1
    return counts.astype(np.int64), due - counts


def probes_until(last: int, most: int) -> IntArray:
    """Return at most `most` epochs from 0 to `last` that are quick to reach."""
    epochs = np.unique(np.linspace(0, last, min(last + 1, most)).astype(np.int64))
    as_they_are = (epochs < STRETCH) | (epochs == last)
    return np.unique(np.where(as_they_are, epochs, epochs - epochs % STRETCH))


@dataclass(frozen=True, eq=False)
class Strata:
    """Groups of samples, from which an epoch draws in given numbers.

    A stratum is drawn from in *passes*: each is a random sequence of all its members, and the
    next begins where one ends, also from epoch to epoch. So no member is drawn twice before
    every other was drawn once, whatever the numbers.
    """

    members: IntArray  # int64[m], sample indices, stratum after stratum
    offsets: IntArray  # int64[k + 1], where strata begin and end

    @classmethod
    def by(cls, labels: npt.ArrayLike) -> Self:
        """Make a stratum of each distinct label, in the sequence of labels. O(n log n)."""
        _, codes = np.unique(np.asarray(labels), return_inverse=True)
        members = np.argsort(codes, kind="stable").astype(np.int64, copy=False)
        return cls(members, np.concatenate(([0], np.cumsum(np.bincount(codes)))))

    def __len__(self) -> int:
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
        sums = np.array([lengths[stratum].sum(dtype=np.float64) for stratum in self.each()])
        means: FloatArray = np.where(self.sizes, sums / np.maximum(self.sizes, 1), 1.0)
        return means

    def draw(
        self, counts: IntArray, *, seed: int, drawn: IntArray | None = None, epoch: int = 0
    ) -> Pools:
        """Draw pools, each with `counts`, int64[p, k], of each stratum, in random order.

        Passes go on after what was `drawn` before, int64[k], or are those of an `epoch` alone.
        O(m log m), with a loop over strata, not over samples.
        """
        pools, totals = counts.sum(axis=1), counts.sum(axis=0)
        if (totals[self.sizes == 0] > 0).any():
            raise PlanError("an empty stratum is to be drawn from: give it no weight.")
        ends = np.concatenate(([0], np.cumsum(pools)))
        # Where each stratum's part of each pool begins.
        begins = ends[:-1, None] + np.cumsum(counts, axis=1) - counts
        members = np.empty(int(ends[-1]), dtype=np.int64)
        for stratum in np.flatnonzero(totals).tolist():
            start = 0 if drawn is None else int(drawn[stratum])
            stream = self._stream(stratum, start, start + int(totals[stratum]), seed, epoch)
            of_pool = counts[:, stratum]
            shifts = begins[:, stratum] - (np.cumsum(of_pool) - of_pool)
            members[np.arange(stream.size) + np.repeat(shifts, of_pool)] = stream
        eligible = int(((counts > 0) @ self.sizes)[pools > 0].min())
        return Pools(members, np.unique(ends), eligible, may_defer=True)

    def _stream(self, stratum: int, start: int, stop: int, seed: int, epoch: int) -> IntArray:
        """Return draws `start` to `stop` from a stratum's endless passes."""
        own = self.members[self.offsets[stratum] : self.offsets[stratum + 1]]
        passes = max(1, _TOGETHER // own.size)
        block = passes * own.size
        first = start // block
        parts = []
        for number in range(first, -(-stop // block)):
            rng = generator(seed, "passes", epoch, stratum, number)
            if passes == 1:
                parts.append(shuffled(own, rng))
            else:
                keys = random_bits(rng, block).reshape(passes, own.size)
                parts.append(own[keys.argsort(axis=1)].ravel())
        return np.concatenate(parts)[start - first * block : stop - first * block]


@dataclass(eq=False)
class Draws:
    """How many samples of each stratum each epoch draws: a pure function of the epoch.

    Every epoch is cut into equal parts. Each part is drawn by the weights at its middle, in whole
    numbers whose error never grows: over the whole run, every stratum is less than a sample away
    from its target at the end of each part. From epoch 1,024 on, the epochs before the last
    multiple of 1,024 are added up in 128 steps: a schedule that still changes then is followed as
    closely as these steps are. The counts before the last epoch are kept for the next.
    """

    strata: Strata
    weights: Callable[[float], FloatArray]  # progress, 1 at the horizon → float64[k]
    horizon: float  # epochs after which progress is 1
    size: float  # of an epoch: samples, or tokens
    sizes: FloatArray  # float64[k], of a sample of each stratum, in the same unit; ones for samples
    parts: int  # into which an epoch is cut
    _last: tuple[int, IntArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def __call__(self, *, seed: int, epoch: int) -> Pools:
        """Return the pools of an epoch; consecutive parts with equal weights are one pool."""
        drawn, counts, weights = self.plan(epoch)
        if not counts.any():  # less than half a sample is due: one comes early
            counts[0, np.argmax(np.where(self.strata.sizes > 0, weights[0], 0.0))] = 1
        new = np.concatenate(([True], (np.diff(weights, axis=0) != 0).any(axis=1)))
        merged = np.add.reduceat(counts, np.flatnonzero(new), axis=0)
        return self.strata.draw(merged, drawn=drawn, seed=seed)

    def plan(self, epoch: int) -> tuple[IntArray, IntArray, FloatArray]:
        """Return what was drawn before, and the counts and weights of each part of an epoch.

        int64[k], int64[parts, k] and float64[parts, k], in at most 1,024 · parts · k steps; in
        parts · k, if the epoch before was asked for last.
        """
        stretch, last = epoch - epoch % STRETCH, self._last  # read once: threads may share this
        if last is not None and stretch <= last[0] <= epoch:
            start, drawn, owed = last
        else:
            start, together = stretch, stretch // _STEPS
            middles = (np.arange(_STEPS if together else 0) + 0.5) * together / self.horizon
            target = np.zeros(len(self.strata))
            for progress in middles.tolist():
                target += self._target(self._weights(progress), self.parts * together)
            drawn, owed = apportioned(target, np.zeros(len(self.strata)))
        for each in range(start, epoch):
            counts, _, owed = self._epoch(each, owed)
            drawn = drawn + counts.sum(axis=0)
        self._last = (epoch, drawn, owed)
        counts, weights, _ = self._epoch(epoch, owed)
        return drawn, counts, weights

    def targets(self, epoch: int) -> FloatArray:
        """Return how many samples of each stratum each part aims at, float64[parts, k]."""
        return np.stack([self._target(weights) for weights in self.plan(epoch)[2]])

    def _epoch(self, epoch: int, owed: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
        middles = (epoch + (np.arange(self.parts) + 0.5) / self.parts) / self.horizon
        weights = np.stack([self._weights(progress) for progress in middles.tolist()])
        counts = np.empty(weights.shape, dtype=np.int64)
        for part in range(self.parts):
            counts[part], owed = apportioned(self._target(weights[part]), owed)
        return counts, weights, owed

    def _weights(self, progress: float) -> FloatArray:
        array = np.asarray(self.weights(progress), dtype=np.float64)
        if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
            raise PlanError(
                f"weights at progress {progress:.3g} are {array.tolist()[:8]}, expected finite "
                "numbers of at least 0, not all of them 0."
            )
        return array

    def _target(self, weights: FloatArray, parts: int = 1) -> FloatArray:
        """Return how many samples of each stratum some parts with the same weights aim at."""
        shares = np.where(self.strata.sizes > 0, weights, 0.0)
        shares = shares / shares.sum()
        target: FloatArray = shares * (
            parts * (self.size / self.parts / float((shares * self.sizes).sum()))
        )
        return target
