"""Where to cut lengths, or pairs of them, into a few shapes so that the least is padded."""

from collections.abc import Callable

import numpy as np

from batchwright.lengths import runs
from batchwright.typing import FloatArray, IntArray, LengthArray

_CANDIDATES = 48
"""Edges of a column to choose from: the table of ranges is quadratic in them."""

_THINNED = 4096
"""Distinct lengths up to which the last edges are chosen among all of them."""

_Range = tuple[int, int, int]
"""Candidates `start` to `stop - 1` of a column, and how many shapes they get."""


def counted(lengths: LengthArray) -> tuple[IntArray, IntArray]:
    """Return distinct lengths, rising, and how many samples have each."""
    values, counts = runs(lengths, np.arange(lengths.size))
    return values[::-1].copy(), counts[::-1].copy()


def best_edges(values: IntArray, counts: IntArray, num_shapes: int) -> IntArray:
    """Choose lengths so that padding every sample to the next one adds the fewest tokens.

    Guarantees the least padding of any choice of so many lengths. Dynamic programming over the
    distinct lengths, int64[r] rising: O(k · r log r), as the best last cut only moves up.
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
    ends = [size]
    for shape in range(num_shapes - 1, 0, -1):
        ends.append(int(last_cuts[shape, ends[-1]]))
    return values[[end - 1 for end in reversed(ends) if end]]


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


def best_pairs(
    pairs: IntArray, num_shapes: int, area: Callable[[IntArray], FloatArray]
) -> IntArray | None:
    """Choose padded shapes for samples of two lengths, int64[n, 2], that take the least area.

    One column is cut into ranges, and each range is cut in the other column on its own: that
    fits source and target, or height and width, better than a grid. How many shapes a range gets,
    and which column is cut first, is tried out.

    Guarantees the least area of all such choices where a column has at most 48 distinct lengths;
    else ranges are chosen among 48 candidates, dense where samples are. `area` of padded lengths
    grows with both, and is infinite where no batch has room for them. Returns int64[s, 2], at most
    `num_shapes`; None where so few are not found to hold all samples. O(n + k m³) for k shapes and
    m ≤ 48 candidates.
    """
    columns = [np.ascontiguousarray(column) for column in pairs.T]
    edges = [_candidates(column) for column in columns]
    places = [np.searchsorted(*each) for each in zip(edges, columns, strict=True)]
    areas = area(np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1))
    counts = np.bincount(places[0] * edges[1].size + places[1], minlength=areas.size)
    counts = counts.reshape(areas.shape)
    found = [_guillotine(*each, num_shapes) for each in ((counts, areas), (counts.T, areas.T))]
    first = int(found[1][0] < found[0][0])
    ranges = found[first][1]
    if not ranges:
        return None
    range_of = np.repeat(np.arange(len(ranges)), [stop - start for start, stop, _ in ranges])
    of_sample = range_of.astype(np.uint8)[places[first]]  # NumPy sorts 8 bits by radix
    ordered = columns[1 - first][np.argsort(of_sample, kind="stable")]
    stops = np.cumsum(np.bincount(of_sample, minlength=len(ranges)))
    shapes = []
    for (_, stop, many), part in zip(ranges, np.split(ordered, stops[:-1]), strict=True):
        cuts = best_edges(*_thinned(part), many)
        shape = np.stack((np.full_like(cuts, edges[first][stop - 1]), cuts), axis=1)
        shapes.append(shape if first == 0 else shape[:, ::-1])
    return np.concatenate(shapes)


def _guillotine(counts: IntArray, areas: FloatArray, num_shapes: int) -> tuple[float, list[_Range]]:
    """Cut rows into ranges and each range's columns: the least area, and the ranges."""
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
            came_from[stop, many + better, 0] = starts[better]
            came_from[stop, many + better, 1] = many
    ranges: list[_Range] = []
    stop, left = size, num_shapes
    while stop and np.isfinite(best[size, num_shapes]):
        start, many = came_from[stop, left].tolist()
        ranges.append((start, stop, many))
        stop, left = start, left - many
    return float(best[size, num_shapes]), ranges[::-1]


def _of_ranges(counts: IntArray, areas: FloatArray, num_shapes: int) -> FloatArray:
    """Return the least area of rows `start` to `stop - 1` in at most k shapes, [stop, start, k]."""
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
        needed = (held < held[-1]).sum(axis=0)  # columns after the last sample need no shape
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
    """Choose lengths to cut at: all, or 48 such that each step between them pads about the same."""
    values, counts = counted(column)
    if values.size <= _CANDIDATES:
        return values
    # Edges w apart pad c samples by c·w/2: least where w goes with 1 ÷ the root of the density.
    steps = np.cumsum(np.sqrt(counts * np.diff(values, prepend=0)))
    wanted = steps[-1] / _CANDIDATES * np.arange(1, _CANDIDATES)
    places = np.append(np.searchsorted(steps, wanted), values.size - 1)
    chosen: IntArray = values[np.unique(places)]
    return chosen


def _thinned(column: IntArray) -> tuple[IntArray, IntArray]:
    """Count samples of equal length; where there are too many lengths, of about equal."""
    values, counts = counted(column)
    if values.size <= _THINNED:
        return values, counts
    last = np.linspace(0, values.size, _THINNED + 1).astype(np.int64)[1:]
    return values[last - 1], np.add.reduceat(counts, np.append(0, last[:-1]))
