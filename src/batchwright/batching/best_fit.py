"""Best-fit decreasing on a histogram: rows filled without looking at a single sample."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np

from batchwright.seeding import BLOCK
from batchwright.typing import FloatArray, IntArray

_Rows = tuple[int, int, int]  # first row, number of rows, samples in each


@dataclass(frozen=True, eq=False)
class Fill:
    """How rows are filled: a few thousand strokes, each the same for a run of rows.

    Stroke `e` puts ``times[e]`` samples of one length into each of the rows ``first[e]`` to
    ``first[e] + rows[e] - 1``, behind the ``held[e]`` samples that those hold already. Strokes
    use up the samples from long to short.

    Attributes:
        first: int64[e].
        rows: int64[e].
        times: int64[e].
        held: int64[e].
        lengths: int64[e], tokens.
        num_rows: Rows in all.
    """

    first: IntArray
    rows: IntArray
    times: IntArray
    held: IntArray
    lengths: IntArray
    num_rows: int

    def per_row(self, values: FloatArray) -> FloatArray:
        """Sum a figure per sample of each stroke over the rows, float64[e] → float64[num_rows]."""
        change = np.zeros(self.num_rows + 1)
        amount = values * self.times
        np.add.at(change, self.first, amount)
        np.add.at(change, self.first + self.rows, -amount)
        return np.cumsum(change[:-1])

    def offsets(self) -> IntArray:
        """Return where rows begin and end among the samples, int64[num_rows + 1]."""
        sizes = np.rint(self.per_row(np.ones(self.first.size))).astype(np.int64)
        return np.concatenate(([0], np.cumsum(sizes)))

    def hand_out(self, ids: IntArray) -> IntArray:
        """Put sample indices into their rows, long and short ones evenly along the row.

        A row that has to be split later then gives two halves of about as many tokens.

        Args:
            ids: int64[m], sample indices from long to short.

        Returns:
            int64[m], row after row. One pass, in blocks.
        """
        offsets = self.offsets()
        sizes = np.diff(offsets)
        out = np.empty_like(ids)
        used = np.concatenate(([0], np.cumsum(self.rows * self.times)))
        strokes = np.searchsorted(used, np.arange(0, ids.size + BLOCK, BLOCK), side="right") - 1
        strokes[-1] = self.first.size
        for begin, end in zip(strokes[:-1].tolist(), strokes[1:].tolist(), strict=True):
            if begin == end:
                continue
            low, high = int(used[begin]), int(used[end])
            rows = self.rows[begin:end]
            # Each stroke's rows, then each row's samples.
            row = _ranges(self.first[begin:end], rows)
            times = np.repeat(self.times[begin:end], rows)
            place = _ranges(np.repeat(self.held[begin:end], rows), times)
            # From long to short, samples come to the front and to the back of the row in turn.
            from_back = np.repeat(sizes[row], times) - 1 - (place >> 1)
            place = np.where(place & 1, from_back, place >> 1)
            out[np.repeat(offsets[row], times) + place] = ids[low:high]
        return out


def best_fit_decreasing(
    lengths: IntArray, counts: IntArray, capacity: int, *, max_samples: int | None = None
) -> Fill:
    """Pack samples into rows, each into the fullest row that still holds it, longest first.

    All samples of one length, and all rows of one free space, are handled at once, which gives
    the same rows as one sample at a time.

    Args:
        lengths: int64[r], distinct lengths from long to short, none above the capacity.
        counts: int64[r], samples of each.
        capacity: Tokens of a row.
        max_samples: The most samples in a row.

    Returns:
        The strokes that fill the rows. O(r · distinct free spaces) at worst, near O(r log r) in
        practice, whatever the number of samples.

    References:
        Krell, Kosec, Perez, Fitzgibbon, *Efficient Sequence Packing without
        Cross-contamination*, 2021, arXiv 2107.02027 (packing the histogram).

    Example:
        >>> fill = best_fit_decreasing(np.array([6, 4]), np.array([1, 2]), 10)
        >>> fill.num_rows, fill.offsets().tolist()
        (2, [0, 2, 3])
    """
    most = int(counts.sum()) if max_samples is None else max_samples
    lengths, counts = (each.astype(np.int64, copy=False) for each in (lengths, counts))
    return packed(lengths.tobytes(), counts.tobytes(), capacity, most)


@lru_cache(maxsize=4)
def packed(lengths_bytes: bytes, counts_bytes: bytes, capacity: int, most: int) -> Fill:
    """Pack a histogram: the last few are kept, as all epochs of a shuffle have the same one."""
    lengths, counts = np.frombuffer(lengths_bytes, np.int64), np.frombuffer(counts_bytes, np.int64)
    shortest = int(lengths[-1])
    spaces: list[int] = []  # free spaces that some row has, ascending
    rows_with: dict[int, list[_Rows]] = {}
    strokes: list[tuple[int, int, int, int, int]] = []
    num_rows = 0

    def put(space: int, rows: _Rows) -> None:
        """Offer the space that is left in some rows, if anything may still go there."""
        if space < shortest or rows[2] >= most:
            return
        if space in rows_with:
            rows_with[space].append(rows)
        else:
            rows_with[space] = [rows]
            insort(spaces, space)

    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        left = count
        while left:
            found = bisect_left(spaces, length)
            if found == len(spaces):  # no row holds it: open as many as it takes
                times = min(capacity // length, most)
                put(capacity, (num_rows, -(-left // times), 0))
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
            if full:
                strokes.append((first, full, times, held, length))
                put(space - times * length, (first, full, held + times))
                left -= full * times
            if rest:
                strokes.append((first + full, 1, rest, held, length))
                put(space - rest * length, (first + full, 1, held + rest))
                left = 0
    flat = np.fromiter(chain.from_iterable(strokes), dtype=np.int64, count=5 * len(strokes))
    first_rows, rows_each, times_each, held_before, of_length = flat.reshape(-1, 5).T.copy()
    return Fill(first_rows, rows_each, times_each, held_before, of_length, num_rows)


def _ranges(begins: IntArray, sizes: IntArray) -> IntArray:
    """Concatenate ``begins[i], begins[i] + 1, …`` of `sizes[i]` entries each."""
    ends = np.cumsum(sizes)
    return np.repeat(begins - ends + sizes, sizes) + np.arange(int(ends[-1]))
