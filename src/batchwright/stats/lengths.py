"""How long samples are: a summary, and a histogram on a logarithmic axis."""

from dataclasses import dataclass

import numpy as np

from batchwright._random import BLOCK
from batchwright.typing import FloatArray, IntArray, LengthArray

_BINS = 64


@dataclass(frozen=True)
class Histogram:
    """Counts of lengths in bins of about equal width on a logarithmic axis."""

    edges: tuple[int, ...]  # bin i holds lengths from edges[i] to edges[i + 1] - 1
    counts: tuple[int, ...]  # samples in each bin

    def heights(self, width: int) -> FloatArray:
        """Return the density of samples over `width` equal steps of the logarithmic axis.

        Bins of whole numbers cannot be equally wide, so this is samples per step of the axis, not
        samples per bin.

        Returns:
            float64[width], scaled so that the highest is 1.

        Example:
            >>> Histogram((1, 2, 4), (3, 6)).heights(4)
            array([0.5, 0.5, 1. , 1. ])
        """
        edges = np.log(self.edges)
        steps = np.linspace(edges[0], edges[-1], width + 1)
        below = np.interp(steps, edges, np.concatenate(([0], np.cumsum(self.counts))))
        samples = np.diff(below)
        heights: FloatArray = samples / samples.max()
        return heights

    def position(self, length: float) -> float:
        """Return where a length lies on the logarithmic axis, from 0 to 1."""
        start, stop = np.log(self.edges[0]), np.log(self.edges[-1])
        return float((np.log(length) - start) / (stop - start))


@dataclass(frozen=True)
class LengthStats:
    """A summary of lengths; the fields are the ``--json`` keys."""

    num_samples: int
    num_tokens: int
    min: int
    median: float
    mean: float
    p95: float
    max: int
    histogram: Histogram


def length_stats(lengths: LengthArray) -> LengthStats:
    """Summarize lengths.

    Example:
        >>> stats = length_stats(np.array([1, 2, 3, 8]))
        >>> stats.median, stats.max, stats.num_tokens
        (2.5, 8, 14)
    """
    median, p95 = np.quantile(lengths, [0.5, 0.95])
    total = int(lengths.sum(dtype=np.int64))
    return LengthStats(
        num_samples=int(lengths.size),
        num_tokens=total,
        min=int(lengths.min()),
        median=float(median),
        mean=total / lengths.size,
        p95=float(p95),
        max=int(lengths.max()),
        histogram=histogram(lengths),
    )


def histogram(lengths: LengthArray, *, max_bins: int = _BINS) -> Histogram:
    """Count lengths in logarithmic bins from the shortest to the longest.

    Guarantees that every sample is counted in exactly one bin. O(n log max_bins), in blocks: the
    lengths are not copied.

    Example:
        >>> histogram(np.array([1, 2, 3, 8]), max_bins=3)
        Histogram(edges=(1, 2, 4, 9), counts=(1, 2, 1))
    """
    edges = logarithmic_edges(lengths, max_bins)
    counts = np.zeros(edges.size - 1, dtype=np.int64)
    for start in range(0, lengths.size, BLOCK):
        bins = np.searchsorted(edges, lengths[start : start + BLOCK], side="right") - 1
        counts += np.bincount(bins, minlength=counts.size)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def logarithmic_edges(values: LengthArray, most: int) -> IntArray:
    """Return whole edges of at most `most` bins, about equally wide on a logarithmic axis."""
    first, last = int(values.min()), int(values.max())
    edges = np.unique(np.rint(np.geomspace(first, last + 1, most + 1)).astype(np.int64))
    edges[0], edges[-1] = first, last + 1  # the roots of large numbers are not exact
    return edges
