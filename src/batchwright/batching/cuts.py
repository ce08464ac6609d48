"""Where to cut samples into padded batches: of a length-sorted run, and of a binding sequence."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from batchwright.typing import IntArray

MaxSamples: TypeAlias = int | Callable[[IntArray], IntArray] | None
"""The most rows in a batch; or a function of their padded length, int64[m] → int64[m]."""


@dataclass(frozen=True)
class RowLimit:
    """How many rows of a length make a batch.

    Attributes:
        max_tokens: The budget of a batch, padding included.
        max_samples: The most rows, whatever their length or as a function of it.
        pad_to_multiple_of: Rows are padded to a multiple of this.
        batch_size_multiple_of: Batches larger than this hold a multiple of it.

    Example:
        >>> RowLimit(100, batch_size_multiple_of=4)(np.array([40, 9]))
        array([2, 8])
    """

    max_tokens: int
    max_samples: MaxSamples = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1

    def padded(self, lengths: IntArray) -> IntArray:
        """Round lengths up, as rows lie in memory: int64[m] → int64[m]."""
        if self.pad_to_multiple_of == 1:
            return lengths
        return -(-lengths // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def __call__(self, lengths: IntArray, *, max_tokens: int | None = None) -> IntArray:
        """Return the rows that fit, int64[m]: at least 1 where a single one does."""
        padded = self.padded(lengths)
        rows = (self.max_tokens if max_tokens is None else max_tokens) // padded
        if callable(self.max_samples):
            rows = np.minimum(rows, self.max_samples(padded))
        elif self.max_samples is not None:
            rows = np.minimum(rows, self.max_samples)
        if self.batch_size_multiple_of > 1:
            whole = rows // self.batch_size_multiple_of * self.batch_size_multiple_of
            rows = np.where(whole > 0, whole, rows)
        return rows


def cut_runs(counts: IntArray, rows: IntArray) -> IntArray:
    """Cut a length-sorted pool into batches, given only how many samples have each length.

    From the longest on, each batch takes as many rows as its first, longest sample allows. Of
    all batchings within the budget this leaves the least padding that one pass can.

    Args:
        counts: int64[r], samples of each distinct length, from long to short.
        rows: int64[r], how many rows of that length make a batch.

    Returns:
        int64[b], samples in each batch. O(r) steps, whatever the number of samples.

    Example:
        >>> cut_runs(np.array([3, 4]), np.array([2, 5]))
        array([2, 2, 3])
    """
    ends = np.cumsum(counts).tolist()
    allowed = rows.tolist()
    opened: list[int] = []
    times: list[int] = []
    position = run = 0
    total = ends[-1]
    while position < total:
        many = -(-(ends[run] - position) // allowed[run])
        opened.append(allowed[run])
        times.append(many)
        position += many * allowed[run]
        run = bisect_right(ends, position, run)
    sizes = np.repeat(opened, times)
    sizes[-1] -= position - total
    return sizes


def fit_runs(
    lengths: IntArray, counts: IntArray, limit: RowLimit, *, num_batches: int, rounds: int = 16
) -> IntArray | None:
    """Cut a length-sorted pool into at most a number of batches, all about equally full.

    Lowers the budget as far as the number allows: rather all batches a little smaller than a
    few of them halved.

    Args:
        lengths: int64[r], distinct lengths from long to short.
        counts: int64[r], samples of each.
        limit: The rows that fit.
        num_batches: The most batches there may be.
        rounds: Bisection steps at most.

    Returns:
        int64[b], samples in each batch, b ≤ `num_batches`; None if the budget needs more.
        O(rounds · r).

    Example:
        >>> fit_runs(np.array([10]), np.array([9]), RowLimit(50), num_batches=3)
        array([3, 3, 3])
    """
    best = cut_runs(counts, limit(lengths))
    if best.size >= num_batches:
        return best if best.size == num_batches else None
    low, high = int(limit.padded(lengths[:1])[0]) - 1, limit.max_tokens
    for _ in range(rounds):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        sizes = cut_runs(counts, limit(lengths, max_tokens=middle))
        if sizes.size > num_batches:
            low = middle
        else:
            high, best = middle, sizes
            if sizes.size == num_batches:
                break
    return best


def cut_sequence(lengths: IntArray, limit: RowLimit) -> IntArray:
    """Cut a sequence into padded batches without changing it.

    Args:
        lengths: int64[m], in the sequence to keep.
        limit: The rows that fit.

    Returns:
        int64[b], samples in each batch: as many as fit, batch after batch. O(m), with one
        short vector operation for each batch.

    Example:
        >>> cut_sequence(np.array([1, 1, 4, 1, 1]), RowLimit(4))
        array([2, 1, 2])
    """
    most = limit(lengths)
    sizes: list[int] = []
    position = 0
    while position < lengths.size:
        window = most[position : position + int(most[position])]
        # A batch of k rows is allowed if its most demanding member allows k.
        allowed = np.minimum.accumulate(window) >= np.arange(1, window.size + 1)
        size = int(np.count_nonzero(allowed))
        if limit.batch_size_multiple_of < size:
            size -= size % limit.batch_size_multiple_of
        sizes.append(size)
        position += size
    return np.array(sizes, dtype=np.int64)
