"""Rows filled with samples of several lengths each: a packed source and its packed target.

No single length says how well a sample fits, so rows are chosen by what is left in all columns.
As many rows as any packing needs are open from the start, and each sample, large ones first, goes
to the row that it leaves most evenly filled: a row whose source is full while half of its target
is free can take nothing more. Where that does not come out at the least number of rows, best fit is
tried as well, which is better where few samples fill a row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from batchwright.lengths import refuse_uncountable
from batchwright.seeding import shuffled
from batchwright.typing import FloatArray, IntArray

_PART = 1 << 10
"""Rows that are filled together. More of them are filled no better, and take longer."""


def fill_columns(
    rows: IntArray,
    members: IntArray,
    capacities: IntArray,
    rng: np.random.Generator,
    *,
    max_samples: int | None = None,
) -> tuple[IntArray, IntArray]:
    """Fill rows with the samples of a pool.

    Samples are packed from large to small, which is by what they take of a row, summed over
    columns: by the fullest column alone, best fit needs 1 to 2 % more rows. Within a row, large and
    small ones take turns at its front and its back, so that a row that has to be split later gives
    two halves of about as many tokens.

    As far as no two samples are equal, every epoch has the same rows; which of them meet in an
    update is drawn anew.

    Args:
        rows: int64[n, k], what every sample takes in each column.
        members: int64[m], the samples of the pool.
        capacities: int64[k], what a row holds of each column; each sample alone fits.
        rng: Where the sequence of equal samples comes from.
        max_samples: The most samples in a row.

    Returns:
        int64[m], the samples, row after row; int64[r], samples in each. O(m log m), and what
        `pack_columns` takes.
    """
    ordered = shuffled(members, rng)
    columns = rows[ordered]
    shares = columns / capacities
    total = shares[:, 0].copy()
    for column in shares.T[1:]:  # in one sequence on every machine, which `sum` does not promise
        total += column
    by_size = np.lexsort((*columns.T, -shares.max(axis=1), -total))
    ordered, columns = ordered[by_size], columns[by_size]
    placed = pack_columns(columns, capacities, max_samples=max_samples)
    sizes = np.bincount(placed)
    begins = np.cumsum(sizes) - sizes
    rank = np.arange(members.size) - np.repeat(begins, sizes)
    from_back = np.repeat(sizes, sizes) - 1 - (rank >> 1)
    place = np.repeat(begins, sizes) + np.where(rank & 1, from_back, rank >> 1)
    out = np.empty_like(ordered)
    out[place] = ordered[np.argsort(placed, kind="stable")]
    return out, sizes


def pack_columns(
    rows: IntArray, capacities: IntArray, *, max_samples: int | None = None
) -> IntArray:
    """Put samples into rows, none of which exceeds its capacity in any column.

    Guarantees at most as many rows as best-fit decreasing needs, which puts one sample after the
    other where the squares of what is left free, as shares of the capacities, sum up to least.
    Enough samples for 2,048 rows and more are dealt into parts that are packed by themselves, all
    in the way that was better for the first.

    Args:
        rows: int64[m, k], what each sample takes in each column, sorted from large to small;
            none exceeds the capacities.
        capacities: int64[k].
        max_samples: The most samples in a row: one more column, of which each takes 1.

    Returns:
        int64[m], the row of each sample, from 0. O(d · k) for d tuples that are distinct in their
        part: a loop over these, each a few vector operations over the at most 2,047 rows of it.

    References:
        Panigrahy, Talwar, Uyeda, Wieder, *Heuristics for Vector Bin Packing*, 2011 (the scores
        that were compared).

    Example:
        >>> pairs = np.array([[6, 1], [4, 2], [3, 5], [1, 3]])
        >>> pack_columns(pairs, np.array([7, 7])).tolist()
        [0, 1, 1, 0]
    """
    begins, counts = _runs(rows)
    tuples, limits = rows[begins], tuple(capacities.tolist())
    if max_samples is not None:
        tuples = np.column_stack((tuples, np.ones_like(begins)))
        limits = (*limits, max_samples)
    return _packed(tuples.astype(np.int64).tobytes(), counts.tobytes(), limits)


@lru_cache(maxsize=2)
def _packed(tuples: bytes, counts: bytes, capacities: tuple[int, ...]) -> IntArray:
    """Pack a histogram: the last ones are kept, as all epochs of a shuffle have the same one."""
    limits = np.array(capacities, dtype=np.int64)
    distinct = np.frombuffer(tuples, dtype=np.int64).reshape(-1, limits.size)
    rows = np.repeat(distinct, np.frombuffer(counts, dtype=np.int64), axis=0)
    num_parts = max(1, _fewest_rows(rows, limits) // _PART)
    placed = np.empty(len(rows), dtype=np.int64)
    used, is_best_fit = 0, None
    for part in range(num_parts):
        of_part = rows[part::num_parts]
        fewest = _fewest_rows(of_part, limits)
        into = _placed(of_part, limits, open_rows=0 if is_best_fit else fewest)
        if is_best_fit is None:
            is_best_fit = False
            if int(into.max()) + 1 > fewest:
                other = _placed(of_part, limits, open_rows=0)
                is_best_fit = bool(other.max() < into.max())
                into = other if is_best_fit else into
        placed[part::num_parts] = into + used
        used += int(into.max()) + 1
    placed.setflags(write=False)
    return placed


def next_fit_columns(
    rows: IntArray, capacities: IntArray, *, max_samples: int | None = None
) -> IntArray:
    """Cut a sequence into rows without changing it.

    Args:
        rows: int64[m, k], what each sample takes in each column, none above the capacities.
        capacities: int64[k].
        max_samples: The most samples in a row.

    Returns:
        int64[b + 1], where rows begin and end. O(b · k · log m).

    Example:
        >>> next_fit_columns(np.array([[6, 1], [1, 4], [1, 2]]), np.array([7, 7])).tolist()
        [0, 2, 3]
    """
    refuse_uncountable(rows.sum(axis=0, dtype=np.float64))
    ends = np.cumsum(rows, axis=0)
    offsets = [0]
    while offsets[-1] < len(rows):
        start = offsets[-1]
        limits = capacities + (ends[start - 1] if start else 0)
        stops = [
            int(np.searchsorted(column, limit, side="right"))
            for column, limit in zip(ends.T, limits, strict=True)
        ]
        offsets.append(min(*stops, len(rows) if max_samples is None else start + max_samples))
    return np.array(offsets, dtype=np.int64)


def _fewest_rows(rows: IntArray, capacities: IntArray) -> int:
    refuse_uncountable(rows.sum(axis=0, dtype=np.float64))
    return int((-(-rows.sum(axis=0) // capacities)).max())


def _runs(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Return where runs of equal samples begin, and how many samples each has."""
    begins = np.flatnonzero((np.diff(rows, axis=0, prepend=-1) != 0).any(axis=1))
    return begins, np.diff(np.append(begins, len(rows)))


def _placed(rows: IntArray, capacities: IntArray, *, open_rows: int) -> IntArray:
    """Place samples, one distinct tuple after the other.

    Evenly where rows are open from the start, one sample to each row at a time; else by best fit,
    as many into a row as it takes.
    """
    is_even = open_rows > 0
    begins, counts = _runs(rows)
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
    if not scores.size:
        return np.empty(0, dtype=np.int64)
    if count == 1:
        first = int(np.argmin(scores))
        return np.array([first] if scores[first] < np.inf else [], dtype=np.int64)
    found = np.flatnonzero(scores < np.inf)
    if count < found.size:  # what is selected hangs on values alone, not on how it is selected
        limit = np.partition(scores, count - 1)[count - 1]
        found = np.flatnonzero(scores <= limit)
    return found[np.argsort(scores[found], kind="stable")][:count]
