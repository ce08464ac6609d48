"""Shares as whole numbers, pool after pool, with an error that never grows."""

import numpy as np

from batchwright.typing import FloatArray, IntArray


def apportioned(target: FloatArray, owed: FloatArray) -> tuple[IntArray, FloatArray]:
    """Turn a pool's target counts into whole numbers, and remember what is owed.

    Guarantees that none is negative, that over all pools so far they add up to the rounded sum
    of the targets, and that meanwhile each stratum is less than one sample away from its target,
    as long as targets drift rather than jump back and forth. (Error diffusion; rounding cumulated
    targets instead gives negative numbers now and then.)

    Args:
        target: float64[k], how many samples of each stratum the pool should have; at least 0.
        owed: float64[k], target minus realised over all pools before.

    Returns:
        int64[k], the counts, and float64[k], what is owed after them. O(k log k).

    Example:
        >>> owed = np.zeros(3)
        >>> for _ in range(3):
        ...     counts, owed = apportioned(np.array([0.5, 0.25, 1.25]), owed)
        ...     print(counts)
        [1 0 1]
        [0 1 1]
        [0 0 2]
    """
    due = owed + target
    size = max(0, round(float(due.sum())))
    counts = np.maximum(np.floor(due + 1e-9), 0.0)
    short = size - int(counts.sum())
    if short > 0:
        # Largest first; of equals the first stratum, on any machine.
        most = np.argsort(counts - due, kind="stable")
        counts[most[:short]] += 1
    elif short < 0:
        least = np.argsort(np.where(counts > 0, due - counts, np.inf), kind="stable")
        counts[least[:-short]] -= 1
    return counts.astype(np.int64), due - counts


def filled(shares: FloatArray, size: float, available: FloatArray) -> FloatArray:
    """Divide a size by shares, none above what is available; what is cut goes to the others.

    Args:
        shares: float64[k], at least 0.
        size: What is to be divided.
        available: float64[k], the most for each.

    Returns:
        float64[k], adding up to `size`, or to what is available of those with a share. O(k²).

    Example:
        >>> filled(np.array([1.0, 1.0, 2.0]), 8.0, np.array([9.0, 1.0, 9.0])).round(2)
        array([2.33, 1.  , 4.67])
    """
    free = shares > 0
    result = np.zeros_like(shares)
    left = float(size)
    while left > 1e-12 and free.any():
        part = np.where(free, shares, 0.0)
        part /= part.max()
        part *= left / part.sum()
        over = free & (part >= available - 1e-12)
        if not over.any():
            return result + part
        result[over] = available[over]
        left -= float(available[over].sum())
        free &= ~over
    return result
