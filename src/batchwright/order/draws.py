"""Draws from groups of samples: whole numbers that follow weights which change over training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from batchwright._keyed import key_of
from batchwright._random import generator, shuffled
from batchwright.errors import PlanError
from batchwright.index import LengthIndex
from batchwright.indexed import Indexed
from batchwright.order.cells import Cells, Drawn
from batchwright.order.pools import Kept, Pools
from batchwright.typing import FloatArray, IntArray, LengthArray, Parts, PartsOf, Sorted

STRETCH = 1 << 10
"""Epochs that are drawn one by one, at most."""

_STEPS = 1 << 7
"""The steps in which all epochs before those are added up."""


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


@dataclass(eq=False)
class Draws:
    """How many samples of each stratum each epoch draws: a pure function of the epoch.

    Every epoch is cut into equal parts. Each part is drawn by the weights at its middle, in whole
    numbers whose error never grows: over the whole run, every stratum is less than a sample away
    from its target at the end of each part. From epoch 1,024 on, the epochs before the last
    multiple of 1,024 are added up in 128 steps: a schedule that still changes then is followed as
    closely as these steps are. The counts before the last epoch are kept for the next.
    """

    cells: Cells
    weights: Callable[[float], FloatArray]  # progress, 1 at the horizon → float64[k]
    horizon: float  # epochs after which progress is 1
    size: float  # of an epoch: samples, or tokens
    sizes: FloatArray  # float64[k], of a sample of each stratum, in the same unit; ones for samples
    parts: int  # into which an epoch is cut
    after: int = 0  # epochs that are plain shuffles first
    until: float = np.inf  # epochs, counted from there, after which all are plain shuffles
    _last: tuple[int, IntArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def __call__(
        self, epoch: int, *, seed: int, attempt: int = 0, most: int | None = None
    ) -> Parts:
        """Return the parts of an epoch; consecutive ones with equal weights are one."""
        epoch -= self.after
        if not 0 <= epoch < self.until:
            return Parts([self.cells.all_of(np.arange(len(self.cells)))])
        drawn, counts, weights = self.plan(epoch)
        if not counts.any():  # less than half a sample is due: one comes early
            counts[0, np.argmax(weights[0])] = 1
        new = np.concatenate(([True], (np.diff(weights, axis=0) != 0).any(axis=1)))
        counts = np.add.reduceat(counts, np.flatnonzero(new), axis=0)
        counts = counts[counts.any(axis=1)]
        eligible = int(((counts > 0) @ self.cells.members_of).min())
        edges = np.concatenate((drawn[None], drawn + np.cumsum(counts, axis=0)))
        key = key_of(seed, "draws")
        at = self.cells.counts(edges, key)
        ends, deferred = at[1:], None
        if most is not None and most < counts.sum():  # without the last draws of each stratum
            wanted = counts.ravel() * np.float64(most / counts.sum())
            kept, _ = apportioned(wanted, np.zeros(counts.size))
            ends = self.cells.counts(edges[:-1] + kept.reshape(counts.shape), key)
            deferred = np.concatenate([_all(part) for part in self._between(ends, at[1:], key)])
        return Parts(self._between(at[:-1], ends, key), eligible, deferred)

    def _between(self, before: IntArray, until: IntArray, key: int) -> list[Drawn]:
        parts = [self.cells.drawn(*each, key) for each in zip(before, until, strict=True)]
        return [part for part in parts if part.which.size]

    def pools(self, epoch: int, *, seed: int) -> Pools:
        """Return the same samples as pools, each in random order."""
        parts = self(epoch, seed=seed)
        members = [_all(part) for part in parts.each]
        offsets = np.concatenate(([0], np.cumsum([part.size for part in members])))
        mixed = shuffled(np.concatenate(members), generator(seed, "pools", epoch), pools=offsets)
        return Pools(mixed, offsets, parts.eligible, may_defer=parts.eligible is not None)

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
            target = np.zeros(len(self.cells))
            for progress in middles.tolist():
                target += self._target(self._weights(progress), self.parts * together)
            drawn, owed = apportioned(target, np.zeros(len(self.cells)))
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
        if not np.isfinite(array).all() or (array < 0).any():
            raise PlanError(
                f"weights at progress {progress:.3g} are {array.tolist()[:8]}, expected finite "
                "numbers of at least 0."
            )
        array = np.where(self.cells.members_of > 0, array, 0.0)
        if not array.any():
            raise PlanError(
                "an epoch would hold no sample: all that the order draws for it exceed the budget. "
                "Raise the budget, or truncate them."
            )
        return array

    def _target(self, weights: FloatArray, parts: int = 1) -> FloatArray:
        """Return how many samples of each stratum some parts with the same weights aim at."""
        shares = weights / weights.sum()
        target: FloatArray = shares * (
            parts * (self.size / self.parts / float((shares * self.sizes).sum()))
        )
        return target


class DrawnOrder:
    """An order whose epochs are draws, of arrays or of samples sorted by length."""

    _kept: Kept

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch: O(n) once for these lengths, then O(draws)."""
        return self.draws(lengths).pools(epoch, seed=seed)

    def by_length(self, samples: Sorted, num_samples: int, *, seed: int) -> PartsOf | None:
        """Return the parts of any epoch, unless samples are split; see `SortedOrder`."""
        draws = self.draws_of(samples, num_samples)
        first = samples.take(np.zeros(1, dtype=np.int64))
        is_split = samples.entries(first).starts is not None
        return None if is_split else partial(draws, seed=seed)

    def draws(self, lengths: LengthArray) -> Draws:
        """Return the draws that epochs are made of, for a report of them."""

        def make() -> tuple[LengthArray, Draws]:
            # `lengths` stays in the value, so that no other array can have its id.
            return lengths, self.draws_of(Indexed(LengthIndex.build(lengths)), lengths.size)

        return self._kept.get(id(lengths), make)[1]

    def draws_of(self, samples: Sorted, num_samples: int) -> Draws:
        """Return the draws from sorted samples."""
        raise NotImplementedError


def _all(part: Sorted) -> IntArray:
    return part.take(np.arange(int(part.counts.sum()))).astype(np.int64, copy=False)
