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

    Source: P. S. Efraimidis, P. G. Spirakis, *Weighted Random Sampling with a Reservoir*, 2006.
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
        draws, positive = self.num_samples or weights.size, np.count_nonzero(weights)
        if not self.replacement and draws > positive:
            raise LengthsError(
                f"{draws} draws without replacement from {positive} samples with a positive "
                "weight. Draw fewer: num_samples=, or replacement=True."
            )

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch, in one pool. O(n)."""
        weights = cast("FloatArray", self.weights)
        refuse_other_data(weights.size, lengths.size, name="weights")
        draw = _systematic if self.replacement else _smallest_keys
        positive = np.flatnonzero(weights > 0)
        draws = self.num_samples or weights.size
        members = draw(weights, positive, draws, generator(seed, "weighted", epoch))
        return Pools(members, np.array([0, members.size]), positive.size, may_defer=True)


def _systematic(
    weights: FloatArray, positive: IntArray, draws: int, rng: np.random.Generator
) -> IntArray:
    """Draw sample i once for each whole number in its stretch, after one random start for all."""
    order = shuffled(positive, rng)
    ends = weights[order]
    total = 0.0
    for start in range(0, ends.size, BLOCK):  # rounding does not grow with the number of values
        block = np.cumsum(ends[start : start + BLOCK])
        ends[start : start + BLOCK] = total + block
        total += float(block[-1])
    ends *= draws / ends[-1]
    begin = float(random_bits(rng, 1)[0] >> np.uint64(11)) / 2**53
    marks = np.floor(ends + begin).astype(np.int64)
    marks[-1] = draws  # also where the sum was rounded
    return np.repeat(order, np.diff(marks, prepend=0))


def _smallest_keys(
    weights: FloatArray, positive: IntArray, draws: int, rng: np.random.Generator
) -> IntArray:
    """Draw the samples with the smallest exponential keys of rate weight."""
    # A weight below the smallest normal number would make a key that is no number.
    rates = np.maximum(weights[positive] / weights.max(), 1e-290)
    keys = _exponentials(rng, positive.size) / rates
    if draws < positive.size:  # sorted: the sequence that a partition leaves is not specified
        positive = positive[np.sort(np.argpartition(keys, draws)[:draws])]
    return shuffled(positive, rng)


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
