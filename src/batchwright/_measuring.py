"""Arithmetic of measurements: which precision is quickest, which lengths to try, what fits them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from batchwright.typing import FloatArray, IntArray

T = TypeVar("T")

_TIE = 0.97
"""A mode is chosen over a simpler one only if it takes less than this share of its time."""


def medians(seconds: Mapping[T, Sequence[float]]) -> dict[T, tuple[float, float]]:
    """Return the median time of each mode, and its median ratio to the first in the same round."""
    first = next(iter(seconds.values()))
    return {
        mode: (float(np.median(times)), float(np.median(np.divide(times, first))))
        for mode, times in seconds.items()
    }


def quickest(ratios: Mapping[T, float]) -> T:
    """Choose the mode with the smallest ratio; a tie goes to the simpler one, which comes first.

    Example:
        >>> quickest({"fp32": 1.0, "bf16": 0.99}), quickest({"fp32": 1.0, "bf16": 0.6})
        ('fp32', 'bf16')
    """
    best, *others = ratios
    for mode in others:
        if ratios[mode] < _TIE * ratios[best]:
            best = mode
    return best


def spread(distinct: IntArray, points: int) -> IntArray:
    """Return the lengths, of distinct ascending ones, nearest to a geometric series over them.

    Example:
        >>> spread(np.arange(1, 101), 3).tolist()
        [1, 10, 100]
    """
    wanted = np.geomspace(distinct[0], distinct[-1], points)
    above = np.searchsorted(distinct, wanted).clip(1, max(1, distinct.size - 1))
    neighbours = distinct[np.stack([above - 1, above.clip(max=distinct.size - 1)])]
    nearest = np.abs(neighbours - wanted).argmin(axis=0)
    return np.unique(np.take_along_axis(neighbours, nearest[None], axis=0))


def nonnegative_fit(terms: FloatArray, target: FloatArray) -> FloatArray:
    """Fit a target by least squares as a sum of few terms with coefficients of at least 0.

    All sets of terms are tried; one with more terms has to lower the error noticeably.

    Example:
        >>> lengths = np.array([1.0, 10.0, 100.0])
        >>> nonnegative_fit(np.vander(lengths, 3, increasing=True), 2 + 0.5 * lengths).round(6)
        array([2. , 0.5, 0. ])
    """
    size = np.linalg.norm(terms, axis=0)  # brings all terms to the same order
    count = terms.shape[1]
    best, least = np.zeros(count), float(target @ target)
    for many in range(1, count + 1):
        for chosen in map(list, combinations(range(count), many)):
            part = terms[:, chosen] / size[chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(np.square(part @ found - target).sum())
            if (found >= 0).all() and error < 0.999 * least - 1e-10:
                best, least = np.zeros(count), error
                best[chosen] = found / size[chosen]
    return best
