"""Where to cut lengths into a few shapes, so that the least is padded."""

import numpy as np

from batchwright.typing import FloatArray, IntArray


def best_edges(values: IntArray, counts: IntArray, num_shapes: int) -> IntArray:
    """Choose padded lengths, so that padding every sample to the next one adds the fewest tokens.

    Guarantees the least padding that any choice of so many lengths has. Dynamic programming over
    the distinct lengths; the best last cut moves one way only, which saves looking at most of
    them.

    Args:
        values: int64[r], distinct lengths, rising.
        counts: int64[r], samples of each.
        num_shapes: How many lengths to choose.

    Returns:
        int64[k], the edges, rising; the last is the longest length. Fewer than `num_shapes` where
        there are fewer distinct lengths. O(k · r log r).

    Example:
        >>> best_edges(np.array([1, 2, 9, 10]), np.array([5, 5, 1, 1]), 2)
        array([ 2, 10])
    """
    size = values.size
    if num_shapes >= size:
        return values.copy()
    totals = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
    longest = values.astype(np.float64)
    # cost[i]: least tokens, padding included, of the i shortest lengths in so many shapes.
    cost = np.concatenate(([0.0], longest * totals[1:]))
    last_cuts = np.zeros((num_shapes, size + 1), dtype=np.int64)
    for shape in range(1, num_shapes):
        cost, last_cuts[shape] = _one_more(cost, totals, longest)
    edges, end = [], size
    for shape in range(num_shapes - 1, -1, -1):
        edges.append(int(values[end - 1]))
        end = int(last_cuts[shape, end])
        if not end:
            break
    return np.array(edges[::-1], dtype=np.int64)


def _one_more(
    cost: FloatArray, totals: FloatArray, longest: FloatArray
) -> tuple[FloatArray, IntArray]:
    """Add a shape: level by level, all middles at once, between the cuts of their neighbours."""
    size = longest.size
    best = np.zeros(size + 1)
    cuts = np.zeros(size + 1, dtype=np.int64)
    low, high = np.array([1]), np.array([size])
    first, last = np.array([0]), np.array([size - 1])
    while low.size:
        middle = (low + high) // 2
        stop = np.minimum(last, middle - 1)
        many = stop - first + 1
        starts = np.cumsum(many) - many
        candidates = np.arange(int(many.sum())) + np.repeat(first - starts, many)
        ends = np.repeat(middle, many)
        tokens = cost[candidates] + longest[ends - 1] * (totals[ends] - totals[candidates])
        least = np.minimum.reduceat(tokens, starts)
        hits = np.flatnonzero(tokens == np.repeat(least, many))
        found = candidates[hits[np.searchsorted(hits, starts)]]
        best[middle], cuts[middle] = least, found
        lower, upper = low < middle, middle < high
        low, high = (
            np.concatenate((low[lower], middle[upper] + 1)),
            np.concatenate((middle[lower] - 1, high[upper])),
        )
        first, last = (
            np.concatenate((first[lower], found[upper])),
            np.concatenate((found[lower], last[upper])),
        )
    return best, cuts
