"""Samples by weight."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_flag, keep_whole
from batchwright._random import BLOCK, generator, random_bits, shuffled
from batchwright.errors import LengthsError
from batchwright.order.pools import Pools
from batchwright.order.scores import as_weights, refuse_other_data
from batchwright.typing import FloatArray, IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class Weighted:
    """Draw each sample in proportion to its weight.

    With replacement, sample `i` is drawn ⌊m·pᵢ⌋ or ⌈m·pᵢ⌉ times out of m, with mean m·pᵢ: the
    least variance possible (systematic sampling). Without replacement, no sample is drawn twice,
    and each next one is drawn in proportion to the weights that are left.

    Args:
        weights: number[n], at least 0; any scale.
        num_samples: Draws of an epoch. None: as many as there are samples.
        replacement: Whether a sample may be drawn more than once an epoch.

    Raises:
        LengthsError: If a weight is negative, NaN or infinite, if all are 0, or if without
            replacement there are fewer positive ones than draws.

    Example:
        >>> order = Weighted([1, 1, 2, 0], num_samples=8)
        >>> np.bincount(order(np.array([5, 5, 5, 5]), seed=0, epoch=0).members).tolist()
        [2, 2, 4]

    Source: P. S. Efraimidis, P. G. Spirakis, *Weighted Random Sampling with a Reservoir*, 2006;
    loss weights without replacement: E. Cohen, H. Kaplan, *Summarizing Data using Bottom-k
    Sketches*, 2007.
    """

    weights: npt.ArrayLike = field(repr=False)
    _: KW_ONLY
    num_samples: int | None = None
    replacement: bool = True

    probes = tuple(range(8))
    varies = True

    def __post_init__(self) -> None:
        weights = as_weights(self.weights, name="weights")
        object.__setattr__(self, "weights", weights)
        keep_whole(self, optional=("num_samples",), error=LengthsError)
        check_flag(self, "replacement", error=LengthsError)
        positive = int(np.count_nonzero(weights))
        if not self.replacement and self._draws > positive:
            raise LengthsError(
                f"{self._draws} draws without replacement from {positive} samples with a positive "
                "weight. Draw fewer: num_samples=, or replacement=True."
            )

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch, in one pool. O(n)."""
        refuse_other_data(self._weights.size, lengths.size, name="weights")
        rng = generator(seed, "weighted", epoch)
        if self.replacement:
            members = self._systematic(rng)
        else:
            members, _ = self._smallest_keys(rng)
        eligible = int(np.count_nonzero(self._weights))
        return Pools(members, np.array([0, members.size]), eligible, may_defer=True)

    def loss_weights(self, *, seed: int, epoch: int) -> FloatArray:
        """Return the factor of each sample's loss that undoes the weighting, float64[n].

        The expected mean over the draws of an epoch is then the mean over all samples with a
        positive weight; those with weight 0 have the factor 0.

        Args:
            seed: The planner's seed.
            epoch: The epoch of the draws.
        """
        weights, draws = self._weights, self._draws
        positive = int(np.count_nonzero(weights))
        if self.replacement:
            chance = draws * (weights / weights.sum())
        else:
            _, threshold = self._smallest_keys(generator(seed, "weighted", epoch))
            rates = weights / weights.max()
            chance = np.where(np.isinf(threshold), 1.0, -np.expm1(-rates * threshold))
        undone: FloatArray = np.zeros_like(weights)
        np.divide(draws / positive, chance, out=undone, where=(weights > 0))
        return undone

    @property
    def _weights(self) -> FloatArray:
        return cast("FloatArray", self.weights)

    @property
    def _draws(self) -> int:
        return self._weights.size if self.num_samples is None else self.num_samples

    def _systematic(self, rng: np.random.Generator) -> IntArray:
        order = shuffled(np.flatnonzero(self._weights > 0), rng)
        weights = self._weights[order]
        # One start for all: sample i is drawn once for each whole number in its stretch.
        ends = _sums(weights)
        ends *= self._draws / ends[-1]
        start = float(random_bits(rng, 1)[0] >> np.uint64(11)) / 2**53
        marks = np.floor(ends + start).astype(np.int64)
        marks[-1] = self._draws  # also where the sum was rounded
        return np.repeat(order, np.diff(marks, prepend=0))

    def _smallest_keys(self, rng: np.random.Generator) -> tuple[IntArray, float]:
        """Draw exponential keys of rate weight; return the smallest, and the next one's key."""
        weights, draws = self._weights, self._draws
        keys = np.full(weights.size, np.inf)
        positive = np.flatnonzero(weights > 0)
        # A weight below the smallest normal number would make a key that is no number.
        rates = np.maximum(weights[positive] / weights.max(), 1e-290)
        keys[positive] = _exponentials(rng, positive.size) / rates
        if draws == positive.size:
            return shuffled(positive, rng), float("inf")
        order = np.argpartition(keys, draws)
        # Sorted first: the sequence that a partition leaves is not specified.
        return shuffled(np.sort(order[:draws]), rng), float(keys[order[draws]])


def _sums(values: FloatArray) -> FloatArray:
    """Cumulate block by block, so that rounding does not grow with the number of values."""
    sums = np.empty_like(values)
    total = 0.0
    for start in range(0, values.size, BLOCK):
        block = np.cumsum(values[start : start + BLOCK])
        sums[start : start + BLOCK] = total + block
        total += float(block[-1])
    return sums


def _exponentials(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw exponential numbers, by a series of sums and products that round alike everywhere."""
    uniform = ((random_bits(rng, size) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    mantissa, exponent = np.frexp(uniform)
    low = mantissa < np.sqrt(0.5)
    mantissa = np.where(low, 2 * mantissa, mantissa)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.zeros_like(square)
    for odd in range(21, 0, -2):
        series = series * square + 1 / odd
    numbers: FloatArray = -(2 * ratio * series + (exponent - low) * 0.6931471805599453)
    return numbers
