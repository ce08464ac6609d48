"""Histograms of lengths on a logarithmic axis."""

from dataclasses import dataclass

import numpy as np

from batchwright.seeding import BLOCK
from batchwright.typing import FloatArray, IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of lengths in bins that are about equally wide on a logarithmic axis.

    Attributes:
        edges: int64[k + 1], strictly increasing. Bin `i` holds the lengths from ``edges[i]`` to
            ``edges[i + 1] - 1``.
        counts: int64[k], samples in each bin.
    """

    edges: IntArray
    counts: IntArray

    def heights(self, width: int) -> FloatArray:
        """Return the curve over `width` equal steps of the logarithmic axis.

        Bins of whole numbers cannot be equally wide, least of all the short ones; so what is
        drawn is samples per step of the axis, not samples per bin.

        Args:
            width: Steps, at least 1.

        Returns:
            float64[width], from 0 to 1, the highest is 1.

        Example:
            >>> Histogram(np.array([1, 2, 4]), np.array([3, 6])).heights(4)
            array([0.5, 0.5, 1. , 1. ])
        """
        edges = np.log(self.edges)
        steps = np.linspace(edges[0], edges[-1], width + 1)
        below = np.interp(steps, edges, np.concatenate(([0], np.cumsum(self.counts))))
        samples = np.diff(below)
        heights: FloatArray = samples / samples.max()
        return heights

    def position(self, length: float) -> float:
        """Return where a length lies on the logarithmic axis, 0 at its start and 1 at its end."""
        start, stop = np.log(self.edges[0]), np.log(self.edges[-1])
        return float((np.log(length) - start) / (stop - start))


def histogram(lengths: LengthArray, *, max_bins: int = 64) -> Histogram:
    """Count lengths in logarithmic bins from the shortest to the longest.

    Guarantees that every sample is counted in exactly one bin.

    Args:
        lengths: integer[n], at least 1 each.
        max_bins: The most bins; fewer where so many would not hold a whole number each.

    Returns:
        The histogram. O(n log max_bins), in blocks: no copy of the lengths.

    Example:
        >>> counted = histogram(np.array([1, 2, 3, 8]), max_bins=3)
        >>> counted.edges.tolist(), counted.counts.tolist()
        ([1, 2, 4, 9], [1, 2, 1])
    """
    first, last = int(lengths.min()), int(lengths.max())
    edges = np.unique(np.rint(np.geomspace(first, last + 1, max_bins + 1)).astype(np.int64))
    edges[0], edges[-1] = first, last + 1  # the roots of large numbers are not exact
    counts = np.zeros(edges.size - 1, dtype=np.int64)
    for start in range(0, lengths.size, BLOCK):
        bins = np.searchsorted(edges, lengths[start : start + BLOCK], side="right") - 1
        counts += np.bincount(bins, minlength=counts.size)
    return Histogram(edges, counts)
