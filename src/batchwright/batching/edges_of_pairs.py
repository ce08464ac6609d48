"""Where to cut samples of two lengths into a few shapes, so that the least is padded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from batchwright.batching.edges import best_edges
from batchwright.lengths import runs
from batchwright.typing import FloatArray, IntArray

_CANDIDATES = 48
"""Edges of a column to choose from: the table of ranges is quadratic in them."""

_THINNED = 4096
"""Distinct lengths up to which the last edges are chosen among all of them."""


@dataclass(frozen=True)
class _Range:
    """Candidates `start` to `stop - 1` of the first column, and how many shapes they get."""

    start: int
    stop: int
    num_shapes: int


def best_pairs(
    pairs: IntArray, num_shapes: int, area: Callable[[IntArray], FloatArray]
) -> IntArray | None:
    """Choose padded shapes for samples of two lengths, so that they take the least area.

    One column is cut into ranges, and each range is cut in the other column on its own: that
    fits source and target, or height and width, better than a grid of as many cells. How many
    shapes a range gets, and which column is cut first, is tried out.

    Guarantees the least area among all such choices where a column has at most 48 distinct
    lengths; else shapes are shared out as if there were only 48 of them, dense where samples are.

    Args:
        pairs: int64[n, 2], the lengths, as padded.
        num_shapes: How many shapes there may be.
        area: What padded lengths int64[..., 2] take, float64[...]; it grows with both. Infinity
            where no batch has room for them.

    Returns:
        int64[s, 2], at most `num_shapes`. None where so few are not found to hold all samples.
        O(n + k m³) for k shapes and m ≤ 48 candidates.

    Example:
        >>> pairs = np.array([[9, 2], [8, 2], [2, 9], [2, 8]])
        >>> best_pairs(pairs, 2, lambda each: each.prod(axis=-1).astype(float)).tolist()
        [[2, 9], [9, 2]]
    """
    columns = [np.ascontiguousarray(column) for column in pairs.T]
    edges = [_candidates(column) for column in columns]
    places = [np.searchsorted(*each) for each in zip(edges, columns, strict=True)]
    size = edges[0].size, edges[1].size
    counts = np.bincount(places[0] * size[1] + places[1], minlength=size[0] * size[1])
    counts = counts.reshape(size)
    areas = area(np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1))
    first, ranges = _ranges(counts.tobytes(), areas.tobytes(), size, num_shapes)
    if not ranges:
        return None
    range_of = np.repeat(np.arange(len(ranges)), [each.stop - each.start for each in ranges])
    of_sample = range_of.astype(np.uint8)[places[first]]  # NumPy sorts 8 bits by radix
    ordered = columns[1 - first][np.argsort(of_sample, kind="stable")]
    stops = np.cumsum(np.bincount(of_sample, minlength=len(ranges))).tolist()
    shapes = []
    for each, start, stop in zip(ranges, [0, *stops[:-1]], stops, strict=True):
        longest = int(edges[first][each.stop - 1])
        cuts = best_edges(*_thinned(ordered[start:stop]), each.num_shapes)
        shape = np.stack((np.full_like(cuts, longest), cuts), axis=1)
        shapes.append(shape if first == 0 else shape[:, ::-1])
    return np.concatenate(shapes)


@lru_cache(maxsize=4)
def _ranges(
    counts_bytes: bytes, areas_bytes: bytes, size: tuple[int, int], num_shapes: int
) -> tuple[int, list[_Range]]:
    """Choose the column to cut first, and its ranges: the last few are kept, for every epoch.

    Returns:
        The column, and its ranges; none where so few shapes cannot hold all samples.
    """
    counts = np.frombuffer(counts_bytes, dtype=np.int64).reshape(size)
    areas = np.frombuffer(areas_bytes, dtype=np.float64).reshape(size)
    taken, ranges = _guillotine(counts, areas, num_shapes)
    turned, turned_ranges = _guillotine(counts.T, areas.T, num_shapes)
    return (1, turned_ranges) if turned < taken else (0, ranges)


def _guillotine(counts: IntArray, areas: FloatArray, num_shapes: int) -> tuple[float, list[_Range]]:
    """Cut rows into ranges and each range's columns: the least area, and the ranges.

    Args:
        counts: int64[m, q], samples of each pair of candidates.
        areas: float64[m, q], what one of them takes.
        num_shapes: How many shapes there may be.
    """
    size = counts.shape[0]
    taken = _of_ranges(counts, areas, num_shapes)
    most = taken.shape[2] - 1
    # best[stop, k]: least area of the rows before `stop` in at most k shapes.
    best = np.full((size + 1, num_shapes + 1), np.inf)
    best[0] = 0
    came_from = np.zeros((size + 1, num_shapes + 1, 2), dtype=np.int64)
    for stop in range(1, size + 1):
        for many in range(1, most + 1):
            totals = best[:stop, : num_shapes + 1 - many] + taken[stop, :stop, many][:, None]
            starts = totals.argmin(axis=0)
            least = totals[starts, np.arange(starts.size)]
            better = np.flatnonzero(least < best[stop, many:])
            best[stop, many + better] = least[better]
            came_from[stop, many + better] = np.stack(
                (starts[better], np.full(better.size, many)), axis=1
            )
    ranges: list[_Range] = []
    stop, left = size, num_shapes
    while stop and np.isfinite(best[size, num_shapes]):
        start, many = came_from[stop, left].tolist()
        ranges.append(_Range(start, stop, many))
        stop, left = start, left - many
    return float(best[size, num_shapes]), ranges[::-1]


def _of_ranges(counts: IntArray, areas: FloatArray, num_shapes: int) -> FloatArray:
    """Cut the columns of every range of rows on its own.

    Returns:
        float64[m + 1, m, k + 1]: the least area of rows ``start`` to ``stop - 1`` in at most so
        many shapes at ``[stop, start, shapes]``.
    """
    size, width = counts.shape
    most = min(num_shapes, width)
    below = np.zeros((size + 1, width + 1))
    below[1:, 1:] = counts.cumsum(axis=0).cumsum(axis=1)
    taken = np.full((size + 1, size, most + 1), np.inf)
    for stop in range(1, size + 1):
        held = (below[stop] - below[:stop]).T.copy()  # [columns, start], samples up to a column
        # best[column, k, start]: least area of the samples up to a column in at most k shapes.
        best = np.full((width + 1, most + 1, stop), np.inf)
        best[0] = 0
        needed = (held < held[-1]).sum(axis=0)  # columns behind the last sample need no shape
        for column in range(1, int(needed.max()) + 1):
            area = areas[stop - 1, column - 1]
            if np.isinf(area):
                break
            spent = area * held[: column + 1]
            before = (best[:column, :-1] - spent[:column, None]).min(axis=0)
            best[column, 1:] = before + spent[column]
        taken[stop, :stop] = best[needed, :, np.arange(stop)]
    return taken


def _candidates(column: IntArray) -> IntArray:
    """Choose lengths to cut at: all, or such that equal steps between them pad about the same.

    Between two edges apart by w, c samples pad about c·w/2 in all; for a given number of edges
    that is least in sum where w goes with one over the root of the density.
    """
    values, counts = _counted(column)
    if values.size <= _CANDIDATES:
        return values
    steps = np.cumsum(np.sqrt(counts * np.diff(values, prepend=0)))
    wanted = steps[-1] / _CANDIDATES * np.arange(1, _CANDIDATES)
    places = np.append(np.searchsorted(steps, wanted), values.size - 1)
    chosen: IntArray = values[np.unique(places)]
    return chosen


def _thinned(column: IntArray) -> tuple[IntArray, IntArray]:
    """Count samples of equal length; where there are too many lengths, of about equal."""
    values, counts = _counted(column)
    if values.size <= _THINNED:
        return values, counts
    last = np.linspace(0, values.size, _THINNED + 1).astype(np.int64)[1:]
    return values[last - 1], np.add.reduceat(counts, np.append(0, last[:-1]))


def _counted(column: IntArray) -> tuple[IntArray, IntArray]:
    """Return distinct lengths, rising, and how many samples have each."""
    values, counts = runs(column, np.arange(column.size))
    return values[::-1].copy(), counts[::-1].copy()
