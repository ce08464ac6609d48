"""A run's draws from strata: counts that follow weights which change as training goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from batchwright.errors import PlanError
from batchwright.order.apportioning import apportioned, filled
from batchwright.order.pools import Pools
from batchwright.order.strata import Strata
from batchwright.typing import FloatArray, IntArray

_State: TypeAlias = tuple[IntArray, FloatArray]
"""int64[k], drawn of each stratum; float64[k], what is owed."""

Weights = Callable[[float], FloatArray]
"""Progress, from 0, where 1 is the horizon → float64[k], how often members of each stratum are
drawn; any scale."""


STRETCH = 1 << 10
"""Epochs that are gone through one by one, at most."""

_STEPS = 1 << 7
"""In so many, all epochs before those are added up."""

_KEPT_STATES = 64


class Memo(list[Any]):
    """What was made for the last lengths, kept for the next epoch; no part of a pickle or copy."""

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        """Pickle as empty: it is made again when it is needed."""
        return (Memo, ())


def probes_until(last: int, most: int) -> IntArray:
    """Return at most `most` epochs from 0 to `last`, such that are quick to get at."""
    epochs = np.unique(np.linspace(0, last, min(last + 1, most)).astype(np.int64))
    as_they_are = (epochs < STRETCH) | (epochs == last)
    return np.unique(np.where(as_they_are, epochs, epochs - epochs % STRETCH))


@dataclass(frozen=True, eq=False)
class Draws:
    """Which samples each pool of each epoch takes, as a pure function of seed and epoch.

    Every epoch is cut into equal parts. Each part is drawn by the weights at its middle, in whole
    numbers whose error never grows: over the whole run, every stratum is less than a sample away
    from its target at the end of each part. From epoch 1,024 on, what was drawn before the last
    multiple of 1,024 is added up in 128 steps in place of one for each epoch: a schedule that
    still changes then is followed as closely as these steps are.

    Attributes:
        strata: The samples, in groups.
        weights: How much of each group, as training goes on.
        horizon: Epochs after which progress is 1.
        size: Of an epoch: samples, or tokens.
        sizes: float64[k], of a sample of each stratum, in the same unit; ones for samples.
        parts: Into which an epoch is cut.
        max_passes: How often a member may be drawn over the whole run. None: any number.
    """

    strata: Strata
    weights: Weights
    horizon: float
    size: float
    sizes: FloatArray
    parts: int
    max_passes: float | None = None
    _states: dict[int, _State] = field(default_factory=dict, repr=False)

    def __call__(self, *, seed: int, epoch: int) -> Pools:
        """Return the pools of an epoch; parts with equal weights are one pool."""
        drawn, counts, weights = self.plan(epoch)
        if not counts.any():  # less than half a sample is due: one comes early
            counts[0, np.argmax(np.where(self.strata.sizes > 0, weights[0], 0.0))] = 1
        new = np.concatenate(([True], (np.diff(weights, axis=0) != 0).any(axis=1)))
        merged = np.add.reduceat(counts, np.flatnonzero(new), axis=0)
        return self.strata.draw(merged, drawn=drawn, seed=seed)

    def plan(self, epoch: int) -> tuple[IntArray, IntArray, FloatArray]:
        """Return what was drawn before, and the counts and weights of each part of an epoch.

        Args:
            epoch: Zero or larger.

        Returns:
            int64[k], int64[parts, k] and float64[parts, k]. At most 1,024 · parts · k steps, for
            what is owed is carried from part to part; one epoch after the other, parts · k.
        """
        stretch = epoch - epoch % STRETCH
        start = max((each for each in self._states if stretch <= each <= epoch), default=stretch)
        drawn, owed = self._states[start] if start in self._states else self._until(stretch)
        for each in range(start, epoch):
            counts, _, owed = self._epoch(each, drawn, owed)
            drawn = drawn + counts.sum(axis=0)
            self._keep(each + 1, (drawn, owed))
        counts, weights, _ = self._epoch(epoch, drawn, owed)
        return drawn, counts, weights

    def _until(self, epoch: int) -> _State:
        """Return what was drawn before an epoch, a multiple of 1,024, and what is owed."""
        target = np.zeros(len(self.strata))
        together = epoch // _STEPS
        for step in range(_STEPS if together else 0):
            progress = (step + 0.5) * together / self.horizon
            weights = _checked(self.weights(progress), progress)
            target += self._target(weights, target, parts=self.parts * together)
        state = apportioned(target, np.zeros(len(self.strata)))
        self._keep(epoch, state)
        return state

    def _keep(self, epoch: int, state: _State) -> None:
        """Keep the state at the beginning of an epoch, for the next, and a few more."""
        while len(self._states) >= _KEPT_STATES:
            del self._states[next(iter(self._states))]
        self._states[epoch] = state

    def targets(self, epoch: int) -> FloatArray:
        """Return how many samples of each stratum the parts of an epoch aim at.

        Where `max_passes` binds, what is left of a stratum.

        Args:
            epoch: Zero or larger.

        Returns:
            float64[parts, k].
        """
        drawn, counts, weights = self.plan(epoch)
        taken = drawn + np.cumsum(counts, axis=0) - counts
        pairs = zip(weights, taken, strict=True)
        return np.stack([self._target(each, before) for each, before in pairs])

    def progress(self, epoch: int) -> FloatArray:
        """Return the progress at the middle of each part of an epoch, float64[parts]."""
        middles: FloatArray = (epoch + (np.arange(self.parts) + 0.5) / self.parts) / self.horizon
        return middles

    def _epoch(
        self, epoch: int, drawn: IntArray, owed: FloatArray
    ) -> tuple[IntArray, FloatArray, FloatArray]:
        counts = np.empty((self.parts, len(self.strata)), dtype=np.int64)
        weights = np.empty(counts.shape)
        for part, progress in enumerate(self.progress(epoch).tolist()):
            weights[part] = _checked(self.weights(progress), progress)
            target = self._target(weights[part], drawn)
            counts[part], owed = apportioned(target, owed)
            drawn = drawn + counts[part]
        return counts, weights, owed

    def _target(
        self, weights: FloatArray, drawn: IntArray | FloatArray, *, parts: int = 1
    ) -> FloatArray:
        """Return how many samples of each stratum some parts with the same weights aim at."""
        shares = np.where(self.strata.sizes > 0, weights, 0.0)
        shares = shares / shares.sum()
        samples = parts * (self.size / self.parts / float((shares * self.sizes).sum()))
        wanted: FloatArray = shares * samples
        if self.max_passes is None:
            return wanted
        left = np.maximum(self.max_passes * self.strata.sizes - drawn, 0.0)
        target = filled(shares, samples, left)
        if target.sum() < min(0.5, samples / 2):
            raise PlanError(
                f"every source has been drawn {self.max_passes:g} times over: nothing is left for "
                "this epoch. Raise max_epochs, or train for fewer."
            )
        return target


def _checked(weights: FloatArray, progress: float) -> FloatArray:
    array = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise PlanError(
            f"weights at progress {progress:.3g} are {array.tolist()[:8]}, expected finite numbers "
            "of at least 0, not all of them 0."
        )
    return array
