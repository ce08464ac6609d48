"""Which precision to choose, from the times of interleaved steps."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

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
