"""Where to cut samples into padded batches.

Length-sorted samples are cut by the histogram of their lengths. A binding sequence is cut where it
stands. Of a random sequence, windows are sorted and cut one by one: only inside a window does
length decide which samples share a batch. Samples of several lengths are cut in strips.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from batchwright.batching.draft import offsets_of
from batchwright.layout import Layout
from batchwright.seeding import random_bits, shuffled
from batchwright.typing import FloatArray, IntArray, LengthArray
from batchwright.updates import split_offsets

MaxSamples: TypeAlias = int | Callable[[IntArray], IntArray] | None
"""The most rows in a batch; or a function of their padded length, int64[m] → int64[m]."""

_RUNS = 8
_WINDOWS = 8
_ROOM = 1.03

_STRIPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])
"""Batches of a strip."""


@dataclass(frozen=True)
class RowLimit:
    """How many rows of a length make a batch, by the settings of `TokenBudget`.

    Example:
        >>> RowLimit(100, batch_size_multiple_of=4)(np.array([40, 9]))
        array([2, 8])
    """

    max_tokens: int
    max_samples: MaxSamples = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1

    def padded(self, lengths: IntArray) -> IntArray:
        """Round lengths up as rows lie in memory, int64[m]."""
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
    """Cut length-sorted samples into batches, given only how many samples have each length.

    From the longest on, each batch takes as many rows as its first, longest sample allows.

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
    """Cut length-sorted samples into at most a number of batches, all about equally full.

    Lowers the budget as far as the number allows: all batches become a little smaller, instead of
    a few being halved later.

    Returns:
        int64[b], samples in each batch, b ≤ `num_batches`; None if the budget needs more.
        O(rounds · r) for r distinct lengths, from long to short, with the counts of each.

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


def cut_sequence(
    lengths: IntArray,
    rows_allowed: Callable[[IntArray], IntArray],
    *,
    batch_size_multiple_of: int = 1,
) -> IntArray:
    """Cut a sequence into padded batches without changing it: as many rows as fit, each time.

    Args:
        lengths: int64[m] or [m, k], in the sequence to keep; each alone fits.
        rows_allowed: Longest lengths → rows that fit, int64[...], never more for longer ones.
        batch_size_multiple_of: Batches larger than this hold a multiple of it.

    Returns:
        int64[b], samples in each batch. O(m), with a few vector operations for each batch.

    Example:
        >>> cut_sequence(np.array([1, 1, 4, 1, 1]), RowLimit(4))
        array([2, 1, 2])
        >>> cut_sequence(np.array([[2, 3], [3, 2], [9, 9]]), Layout(budget=18).rows_allowed)
        array([2, 1])
    """
    most = rows_allowed(lengths)
    sizes: list[int] = []
    position = 0
    while position < len(lengths):
        stop = position + int(most[position])
        if lengths.ndim == 1:
            allowed = np.minimum.accumulate(most[position:stop])
        else:
            allowed = rows_allowed(np.maximum.accumulate(lengths[position:stop], axis=0))
        size = int(np.count_nonzero(allowed >= np.arange(1, allowed.size + 1)))
        if batch_size_multiple_of < size:
            size -= size % batch_size_multiple_of
        sizes.append(size)
        position += size
    return np.array(sizes, dtype=np.int64)


def count_in_windows(lengths: IntArray, limit: RowLimit, window: int) -> int:
    """Estimate how many batches a random sequence needs in windows of so many, uneven ones too.

    A window is as many consecutive samples, lengths int64[m], as fill its batches. O(m).
    """
    volume = _volume(lengths, limit)
    # A full window ends before a long sample, with which the next begins: fill some in a row.
    held: list[float] = []
    for begin in np.searchsorted(volume, np.linspace(0, volume[-1], _RUNS, endpoint=False)):
        start = int(begin)
        for _ in range(_WINDOWS):
            before = volume[start - 1] if start else 0.0
            reach = int(np.searchsorted(volume, before + window)) + 1
            if reach > lengths.size and held:
                break  # cut short by the end of the sequence, not by the budget
            stop = _filled(lengths, limit, window, start, min(reach, lengths.size))
            held.append(float(volume[stop - 1] - before))
            start = stop
            if stop == lengths.size:
                break
    # A window that holds less leaves the rest to the next: their mean has to suffice.
    many = volume[-1] / float(np.mean(held))
    spare = float(np.std(held) / np.mean(held)) * 2 / np.sqrt(max(many, 1.0))
    return int(np.ceil(many * (_ROOM + spare) * window))


def cut_in_windows(
    lengths: IntArray, limit: RowLimit, window: int, *, num_batches: int
) -> tuple[IntArray, IntArray] | None:
    """Cut a random sequence into exactly a number of batches, window by window.

    Returns:
        Samples in each batch, int64[num_batches], where the samples of a window are sorted
        from long to short; and where windows begin and end, int64[w + 1], in batches. If the last
        windows do not hold what is left, as many as it takes become one; None if not even one
        window of everything holds it. O(m log m).
    """
    edges = [*range(0, num_batches, window), num_batches]
    volume = _volume(lengths, limit)
    starts: list[int] = []
    sizes: list[IntArray] = []
    start = 0
    for done, quota in zip(edges[1:], np.diff(edges).tolist(), strict=True):
        starts.append(start)
        left = num_batches - done
        share = np.searchsorted(volume, volume[-1] * done / num_batches) if left else lengths.size
        stop = min(max(int(share), start + quota), lengths.size - left)
        cut = _fitted(lengths[start:stop], limit, quota)
        if cut is None and left:
            stop = _filled(lengths, limit, quota, start, stop)
            cut = _fitted(lengths[start:stop], limit, quota)
        if cut is None:
            return _with_one_tail(lengths, limit, edges, starts, sizes)
        sizes.append(cut)
        start = stop
    return np.concatenate(sizes), np.array(edges)


def _with_one_tail(
    lengths: IntArray,
    limit: RowLimit,
    edges: list[int],
    starts: list[int],
    sizes: list[IntArray],
) -> tuple[IntArray, IntArray] | None:
    """Join the last 2, 4, 8 … windows until they hold what is left: more to sort pads less."""
    merged = 2
    while merged < 2 * len(starts):
        first = max(len(starts) - merged, 0)
        cut = _fitted(lengths[starts[first] :], limit, edges[-1] - edges[first])
        if cut is not None:
            kept = [*edges[: first + 1], edges[-1]]
            return np.concatenate([*sizes[:first], cut]), np.array(kept)
        merged *= 2
    return None


def _volume(lengths: IntArray, limit: RowLimit) -> FloatArray:
    """Cumulate the share of a batch that each sample takes at least."""
    return np.cumsum(1.0 / limit(lengths))


def _filled(lengths: IntArray, limit: RowLimit, window: int, start: int, stop: int) -> int:
    """Return where a window that starts here is full, at `stop` at the latest."""
    fits, too_far = min(start + window, stop), stop + 1
    while too_far - fits > 1 + (stop - start) // 100:
        middle = (fits + too_far) // 2
        _, counts, rows = _runs(lengths[start:middle], limit)
        if cut_runs(counts, rows).size > window:
            too_far = middle
        else:
            fits = middle
    return fits


def _fitted(lengths: IntArray, limit: RowLimit, quota: int) -> IntArray | None:
    """Cut one window into exactly its quota of batches; None if it cannot be."""
    if lengths.size < quota:
        return None
    values, counts, _ = _runs(lengths, limit)
    sizes = fit_runs(values, counts, limit, num_batches=quota, rounds=6)
    if sizes is None:
        return None
    return np.diff(split_offsets(offsets_of(sizes), quota))


def _runs(lengths: IntArray, limit: RowLimit) -> tuple[IntArray, IntArray, IntArray]:
    values, counts = np.unique(lengths, return_counts=True)
    return values[::-1], counts[::-1], limit(values[::-1])


def cut_strips(
    lengths: LengthArray,
    members: IntArray,
    layout: Layout,
    rng: np.random.Generator,
    *,
    batch_size_multiple_of: int = 1,
) -> tuple[IntArray, IntArray]:
    """Rearrange samples of several lengths, and cut them with little padding in every column.

    No single sort brings samples together that are alike in two ways. So they are sorted by
    their longest column, that sequence is cut into strips of a few batches, and each strip is
    sorted by how its columns differ, every other one in reverse. The number of batches of each
    strip is tried out: wide strips let the longest column vary, narrow ones the others.

    Args:
        lengths: integer[n, k], of every sample; each alone fits.
        members: int64[m], the samples to cut.
        layout: The budget.
        rng: For ties, and for the width of the first strip.
        batch_size_multiple_of: Batches larger than this hold a multiple of it.

    Returns:
        int64[m], the samples, batch after batch; int64[b], samples in each. O(m log m), with a
        loop over batches.
    """
    order = shuffled(members, rng)
    columns = lengths[order].astype(np.int64, copy=False)
    scaled = columns / (1.0 if layout.caps is None else np.array(layout.caps))
    by_longest = np.lexsort((-scaled.min(axis=1), -scaled.max(axis=1)))
    order, columns, scaled = order[by_longest], columns[by_longest], scaled[by_longest]
    difference = scaled[:, 0] - scaled[:, 1:].mean(axis=1)
    filled = np.cumsum(1.0 / layout.rows_allowed(columns))  # batches, were there no padding

    def cut(places: IntArray) -> tuple[IntArray, FloatArray]:
        sizes = cut_sequence(
            columns[places], layout.rows_allowed, batch_size_multiple_of=batch_size_multiple_of
        )
        starts = np.cumsum(sizes) - sizes
        longest = layout.rounded(np.maximum.reduceat(columns[places], starts))
        return sizes, np.asarray(layout.areas(longest) * sizes, dtype=np.float64)

    parts, all_sizes = [], []
    waiting = np.empty(0, dtype=np.int64)
    position, direction, around = 0, 1, None
    jitter = 0.0
    while position < order.size or waiting.size:
        done = filled[position - 1] if position else 0.0
        held = float((1.0 / layout.rows_allowed(columns[waiting])).sum()) if waiting.size else 0.0
        # Every epoch has other strips, and so other batches.
        jitter = max(jitter, 0.75 + 0.5 * float(random_bits(rng, 1)[0] >> np.uint64(11)) / 2**53)
        best: tuple[float, int, IntArray, IntArray] | None = None
        for choice in range(_STRIPS.size) if around is None else _near(around):
            wanted = done + _STRIPS[choice] * jitter - held
            stop = min(max(int(np.searchsorted(filled, wanted)), position), order.size)
            places = np.concatenate((waiting, np.arange(position, stop)))
            if not places.size:
                continue
            places = places[np.argsort(direction * difference[places], kind="stable")]
            sizes, padded = cut(places)
            if stop < order.size and sizes.size > 1:  # the last batch may still grow
                sizes, padded = sizes[:-1], padded[:-1]
            real = float(layout.areas(columns[places[: int(sizes.sum())]]).sum())
            ratio = float(padded.sum()) / real
            if best is None or ratio < best[0]:
                best = (ratio, choice, places, sizes)
                ahead = stop
            if stop == order.size:
                break
        if best is None:  # strips were too narrow to hold anything more
            jitter *= 2
            continue
        _, around, places, sizes = best
        taken = int(sizes.sum())
        parts.append(places[:taken])
        all_sizes.append(sizes)
        waiting, position, direction, jitter = places[taken:], ahead, -direction, 0.0
    return order[np.concatenate(parts)], np.concatenate(all_sizes)


def _near(choice: int) -> range:
    return range(max(choice - 1, 0), min(choice + 2, _STRIPS.size))
