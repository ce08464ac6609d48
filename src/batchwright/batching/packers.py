"""Rows filled with samples: best fit on a histogram, for several lengths at once, and next fit.

Within a row, long and short samples take turns at its front and its back, so that a row that is
split later gives two halves of about as many tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from batchwright.batching.cut import Cut
from batchwright.lengths import refuse_uncountable
from batchwright.typing import FloatArray, IntArray

_PART = 1 << 10
"""Rows that are filled together. More of them are filled no better, and take longer."""


def best_fit_decreasing(
    lengths: IntArray, counts: IntArray, capacity: int, *, max_samples: int | None = None
) -> Cut:
    """Pack samples into rows, each into the fullest row that still holds it, longest first.

    All samples of one length, and all rows of one free space, are handled at once, which gives
    the same rows as one sample at a time: near O(r log r) for r distinct lengths, int64[r] from
    long to short, none above the capacity.

    Source: M. Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021,
    arXiv:2107.02027 (packing the histogram).
    """
    most = int(counts.sum()) if max_samples is None else max_samples
    shortest = int(lengths[-1])
    spaces: list[int] = []  # free spaces that some row has, ascending
    rows_with: dict[int, list[tuple[int, int, int]]] = {}  # first row, how many, samples in each
    # First row, rows, samples in each, length; the first sample of that length, and their number.
    stretches: list[tuple[int, int, int, int, int, int]] = []
    num_rows = position = 0

    def put(space: int, first: int, many: int, held: int) -> None:
        if space < shortest or held >= most:
            return
        if space not in rows_with:
            rows_with[space] = []
            insort(spaces, space)
        rows_with[space].append((first, many, held))

    def fill(space: int, first: int, many: int, held: int, times: int) -> None:
        if many and times:
            stretches.append((first, many, times, length, position, count))
            put(space - times * length, first, many, held + times)

    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        left = count
        while left:
            found = bisect_left(spaces, length)
            if found == len(spaces):  # no row holds it: open as many as it takes
                times = min(capacity // length, most)
                put(capacity, num_rows, -(-left // times), 0)
                num_rows += -(-left // times)
            space = spaces[found]
            group = rows_with[space]
            first, many, held = group[-1]
            times = min(space // length, most - held)
            full, rest = divmod(left, times)
            if full >= many:
                full, rest = many, 0
            used = full + (rest > 0)
            if used < many:
                group[-1] = (first + used, many - used, held)
            else:
                group.pop()
                if not group:
                    del rows_with[space], spaces[found]
            fill(space, first, full, held, times)
            fill(space, first + full, 1, held, rest)
            left -= full * times + rest
        position += count
    first, rows, times, length, *runs = np.array(stretches, dtype=np.int64).T
    samples = rows * times
    return Cut(np.cumsum(samples) - samples, samples, first, rows, length, np.stack(runs))


def pack_columns(
    rows: IntArray, capacities: IntArray, *, max_samples: int | None = None
) -> IntArray:
    """Put samples of several lengths into rows that exceed no column's capacity.

    As many rows as any packing needs are open from the start, and each sample goes to the row that
    it leaves most evenly filled: a row whose source is full while half of its target is free can
    take nothing more. Where that needs more rows, best fit is tried too, which is better where few
    samples fill a row: each sample goes where the squares of what is left free, as shares of the
    capacities, have the smallest sum.

    Guarantees at most as many rows as best-fit decreasing needs, up to 2,047 rows; more samples
    are packed in parts, in the way that was better for the first. Takes int64[m, k], from large to
    small, and returns the row of each sample, int64[m].

    Source: R. Panigrahy et al., *Heuristics for Vector Bin Packing*, 2011 (scores compared).
    """
    rows, limits = rows.astype(np.int64, copy=False), capacities
    if max_samples is not None:
        rows = np.column_stack((rows, np.ones(len(rows), dtype=np.int64)))
        limits = np.append(capacities, max_samples)
    num_parts = max(1, _fewest_rows(rows, limits) // _PART)
    placed = np.empty(len(rows), dtype=np.int64)
    used, is_best_fit = 0, False
    for part in range(num_parts):
        of_part = rows[part::num_parts]
        fewest = _fewest_rows(of_part, limits)
        into = _placed(of_part, limits, open_rows=0 if is_best_fit else fewest)
        if part == 0 and into.max() >= fewest:
            other = _placed(of_part, limits, open_rows=0)
            is_best_fit = bool(other.max() < into.max())
            into = other if is_best_fit else into
        placed[part::num_parts] = into + used
        used += int(into.max()) + 1
    return placed


def rows_of(placed: IntArray, ids: IntArray) -> tuple[IntArray, IntArray]:
    """Return samples row after row, as `pack_columns` placed them, and how many are in each."""
    sizes = np.bincount(placed)
    begins = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = begins + _alternating(np.arange(ids.size) - begins, np.repeat(sizes, sizes))
    out = np.empty_like(ids)
    out[place] = ids[np.argsort(placed, kind="stable")]
    return out, sizes


def next_fit(
    rows: IntArray,
    capacities: int | IntArray,
    *,
    max_samples: int | None = None,
    stops: IntArray | None = None,
) -> IntArray:
    """Cut a sequence, int64[m] or [m, k], into rows without changing it; return where they end.

    A row that begins at sample `i` ends before ``stops[i]``.
    """
    refuse_uncountable(rows.sum(axis=0, dtype=np.float64))
    # Ends of samples in each column, from a row of zeros on.
    ends = np.cumsum(np.pad(rows.reshape(len(rows), -1), ((1, 0), (0, 0))), axis=0)
    columns = list(np.ascontiguousarray(ends.T))
    most = len(rows) if max_samples is None else max_samples
    offsets = [0]
    while offsets[-1] < len(rows):
        start = offsets[-1]
        limits = (ends[start] + capacities).tolist()
        ends_at = [
            int(np.searchsorted(column, limit, side="right")) - 1
            for column, limit in zip(columns, limits, strict=True)
        ]
        last = len(rows) if stops is None else int(stops[start])
        offsets.append(min(*ends_at, start + most, last))
    return np.array(offsets, dtype=np.int64)


def _alternating(rank: IntArray, sizes: IntArray) -> IntArray:
    """Return the place of each sample in its row: by rank, at its front and its back in turn."""
    return np.where(rank & 1, sizes - 1 - (rank >> 1), rank >> 1)


def _fewest_rows(rows: IntArray, capacities: IntArray) -> int:
    refuse_uncountable(rows.sum(axis=0, dtype=np.float64))
    return int((-(-rows.sum(axis=0) // capacities)).max())


def _placed(rows: IntArray, capacities: IntArray, *, open_rows: int) -> IntArray:
    """Place samples, one distinct tuple after the other.

    Evenly where rows are open from the start, one sample to each row at a time; else by best fit,
    as many into a row as it takes.
    """
    is_even = open_rows > 0
    begins = np.flatnonzero((np.diff(rows, axis=0, prepend=-1) != 0).any(axis=1))
    counts = np.diff(np.append(begins, len(rows)))
    tuples = rows[begins].astype(np.float64)[:, :, None]  # whole numbers, exact below 2**53
    free = np.repeat(capacities[:, None].astype(np.float64), len(rows), axis=1)
    shares = np.empty_like(free)
    parts = 1.0 / capacities[:, None]
    placed = []
    num_rows = open_rows
    for tokens, count in zip(tuples, counts.tolist(), strict=True):
        left = count
        while left:
            after = np.subtract(free[:, :num_rows], tokens, out=shares[:, :num_rows])
            after *= parts
            least = np.minimum.reduce(after, axis=0)
            if is_even:
                scores = np.maximum.reduce(after, axis=0)
                scores -= least
            else:
                after *= after
                scores = np.add.reduce(after, axis=0)
            scores[least < 0] = np.inf
            chosen = _lowest(scores, left)
            if not chosen.size:
                each = int((capacities[:, None] // tokens).min())
                chosen = np.arange(num_rows, num_rows + -(-left // each))
                num_rows += chosen.size
            times = np.ones(chosen.size, dtype=np.int64)
            if left > 1 and not is_even:
                times = (free[:, chosen] // tokens).min(axis=0).astype(np.int64)
                last = int(np.searchsorted(np.cumsum(times), left))
                chosen, times = chosen[: last + 1], times[: last + 1]
                times[-1] -= max(0, int(times.sum()) - left)
            chosen, times = chosen[:left], times[:left]
            free[:, chosen] -= tokens * times
            placed.append(np.repeat(chosen, times))
            left -= placed[-1].size
    return np.concatenate(placed)


def _lowest(scores: FloatArray, count: int) -> IntArray:
    """Return where the lowest finite scores are, from low to high, the first of equal ones."""
    if count == 1 and scores.size:
        first = int(np.argmin(scores))
        return np.array([first] if scores[first] < np.inf else [], dtype=np.int64)
    found = np.flatnonzero(scores < np.inf)
    if count < found.size:  # the choice depends on values alone, not on the way of selecting
        limit = np.partition(scores, count - 1)[count - 1]
        found = np.flatnonzero(scores <= limit)
    return found[np.argsort(scores[found], kind="stable")][:count]
