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

from batchwright._random import random_bits, shuffled
from batchwright.batching.draft import offsets_of
from batchwright.layout import Padded
from batchwright.typing import FloatArray, IntArray, LengthArray
from batchwright.updates import split_offsets

MaxSamples: TypeAlias = int | Callable[[IntArray], IntArray] | None
"""The most rows in a batch; or a function of their padded length, int64[m] → int64[m]."""

_RUNS = 8
_WINDOWS = 8
_ROOM = 1.03

_STRIPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Batches of a strip."""


@dataclass(frozen=True)
class RowLimit:
    """How many rows of a length make a batch, by the settings of `TokenBudget`."""

    max_tokens: int
    max_samples: MaxSamples = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1

    def padded(self, lengths: IntArray) -> IntArray:
        """Round lengths up as rows lie in memory, int64[m]."""
        return -(-lengths // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def __call__(self, lengths: IntArray, *, max_tokens: int | None = None) -> IntArray:
        """Return the rows that fit, int64[m]: at least 1 where a single one does."""
        padded = self.padded(lengths)
        rows = (self.max_tokens if max_tokens is None else max_tokens) // padded
        if self.max_samples is not None:
            most = self.max_samples(padded) if callable(self.max_samples) else self.max_samples
            rows = np.minimum(rows, most)
        return in_multiples(rows, self.batch_size_multiple_of)


def in_multiples(rows: IntArray, multiple: int) -> IntArray:
    """Round numbers of rows down to a multiple, where they are not below it."""
    return rows - np.where(rows < multiple, 0, rows % multiple)


def on_grid(lengths: LengthArray, values: IntArray, slack: float, phase: float) -> IntArray:
    """Round lengths up to the longest in their cell of a grid, integer[m] → int64[m].

    Cells reach down from a length L to ``L / (1 + slack)``; `phase`, in [0, 1), makes the first one
    smaller, and so moves the others. `values` are the distinct lengths of all samples, from long
    to short, int64[r].

    Example:
        >>> on_grid(np.array([50, 100, 99, 97]), np.array([100, 99, 97, 50]), 0.02, 0.0)
        array([ 50, 100, 100,  97])
    """
    edge, edges = float(values[0]) / (1.0 + slack * (1.0 - phase)), []
    while edge > values[-1]:
        edges.append(edge)
        edge /= 1.0 + slack
    # The cell of each length is how many edges are above it; its longest length comes first.
    cell = np.searchsorted(-np.array(edges), -values.astype(np.float64))
    top = values[np.searchsorted(cell, cell)]
    if values[0] > 4 * lengths.size:
        return top[::-1][np.searchsorted(values[::-1], lengths)]
    table = np.zeros(int(values[0]) + 1, dtype=np.int64)
    table[values] = top
    rounded: IntArray = table[lengths]
    return rounded


def cut_runs(counts: IntArray, rows: IntArray) -> IntArray:
    """Cut length-sorted samples into batches, each as large as its first, longest sample allows.

    Takes the counts of distinct lengths from long to short, and how many rows of each make a
    batch, int64[r]; returns the samples in each batch, int64[b], in O(r) steps.
    """
    ends = np.cumsum(counts).tolist()
    allowed = rows.tolist()
    opened: list[int] = []
    times: list[int] = []
    position = run = 0
    while position < ends[-1]:
        many = -(-(ends[run] - position) // allowed[run])
        opened.append(allowed[run])
        times.append(many)
        position += many * allowed[run]
        run = bisect_right(ends, position, run)
    sizes = np.repeat(opened, times)
    sizes[-1] -= position - ends[-1]
    return sizes


def fit_runs(
    lengths: IntArray, counts: IntArray, limit: RowLimit, *, num_batches: int, rounds: int = 16
) -> IntArray | None:
    """Cut length-sorted samples into at most `num_batches`; None if the budget needs more.

    The budget is lowered as far as the number allows: all batches become a little smaller, instead
    of a few being halved later.
    """
    best = cut_runs(counts, limit(lengths))
    if best.size > num_batches:
        return None
    low, high = int(limit.padded(lengths[:1])[0]) - 1, limit.max_tokens
    for _ in range(rounds):
        if high - low <= 1 or best.size == num_batches:
            break
        middle = (low + high) // 2
        sizes = cut_runs(counts, limit(lengths, max_tokens=middle))
        if sizes.size > num_batches:
            low = middle
        else:
            high, best = middle, sizes
    return best


def cut_sequence(
    lengths: IntArray, rows_allowed: Callable[[IntArray], IntArray], multiple: int = 1
) -> IntArray:
    """Cut a sequence into padded batches without changing it: as many rows as fit, each time.

    Takes lengths int64[m] or [m, k], each of which fits alone, and the rows that fit for a longest
    length, never more for a longer one. Batches larger than `multiple` hold a multiple of it.
    Returns the samples in each batch, int64[b].
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
        sizes.append(size - size % multiple if multiple < size else size)
        position += sizes[-1]
    return np.array(sizes, dtype=np.int64)


def count_in_windows(lengths: IntArray, limit: RowLimit, window: int) -> int:
    """Estimate how many batches a random sequence needs in windows of so many, uneven ones too."""
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
            start = _filled(lengths, limit, window, start, min(reach, lengths.size))
            held.append(float(volume[start - 1] - before))
            if start == lengths.size:
                break
    # A window that holds less leaves the rest to the next: their mean has to suffice.
    many = volume[-1] / float(np.mean(held))
    spare = float(np.std(held) / np.mean(held)) * 2 / np.sqrt(max(many, 1.0))
    return int(np.ceil(many * (_ROOM + spare) * window))


def cut_in_windows(
    lengths: IntArray, limit: RowLimit, window: int, *, num_batches: int
) -> tuple[IntArray, IntArray] | None:
    """Cut a random sequence into exactly `num_batches`, window by window.

    Returns the samples in each batch, int64[b], where those of a window are sorted from long to
    short; and where windows begin and end, int64[w + 1], in batches. If the last windows do not
    hold what is left, as many as it takes become one; None if even a single one does not.
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
            break
        sizes.append(cut)
        start = stop
    else:
        return np.concatenate(sizes), np.array(edges)
    merged = 2  # join the last 2, 4, 8 … windows until they hold what is left
    while merged < 2 * len(starts):
        first = max(len(starts) - merged, 0)
        cut = _fitted(lengths[starts[first] :], limit, num_batches - edges[first])
        if cut is not None:
            kept = [*edges[: first + 1], num_batches]
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
        values, counts = _runs(lengths[start:middle])
        if cut_runs(counts, limit(values)).size > window:
            too_far = middle
        else:
            fits = middle
    return fits


def _fitted(lengths: IntArray, limit: RowLimit, quota: int) -> IntArray | None:
    """Cut one window into exactly its quota of batches; None if it cannot be."""
    if lengths.size < quota:
        return None
    sizes = fit_runs(*_runs(lengths), limit, num_batches=quota, rounds=6)
    return None if sizes is None else np.diff(split_offsets(offsets_of(sizes), quota))


def _runs(lengths: IntArray) -> tuple[IntArray, IntArray]:
    values, counts = np.unique(lengths, return_counts=True)
    return values[::-1], counts[::-1]


def cut_strips(
    lengths: LengthArray,
    members: IntArray,
    layout: Padded,
    rng: np.random.Generator,
    multiple: int,
) -> tuple[IntArray, IntArray]:
    """Rearrange samples of several lengths, and cut them with little padding in every column.

    No single sort brings samples together that are alike in two ways. So they are sorted by
    their longest column, that sequence is cut into strips of a few batches, and each strip is
    sorted by how its columns differ, every other one in reverse. The number of batches of each
    strip is tried out: wide strips let the longest column vary, narrow ones the others.

    Returns the samples, batch after batch, int64[m]; and how many are in each, int64[b].
    """
    order = shuffled(members, rng)
    columns = lengths[order].astype(np.int64, copy=False)
    scaled = columns / (1.0 if layout.caps is None else np.array(layout.caps))
    by_longest = np.lexsort((-scaled.min(axis=1), -scaled.max(axis=1)))
    order, columns, scaled = order[by_longest], columns[by_longest], scaled[by_longest]
    difference = scaled[:, 0] - scaled[:, 1:].mean(axis=1)
    shares = 1.0 / layout.rows_allowed(columns)
    filled = np.cumsum(shares)  # batches, were there no padding

    parts, all_sizes = [], []
    waiting = np.empty(0, dtype=np.int64)
    position, direction, jitter = 0, 1, 0.0
    choices = range(len(_STRIPS))
    while position < order.size or waiting.size:
        done, held = filled[position - 1] if position else 0.0, float(shares[waiting].sum())
        # Every epoch has other strips, and so other batches.
        jitter = max(jitter, 0.75 + 0.5 * float(random_bits(rng, 1)[0] >> np.uint64(11)) / 2**53)
        best: tuple[float, int, int, IntArray, IntArray] | None = None
        for choice in choices:
            wanted = done + _STRIPS[choice] * jitter - held
            stop = min(max(int(np.searchsorted(filled, wanted)), position), order.size)
            places = np.concatenate((waiting, np.arange(position, stop)))
            if not places.size:
                continue
            places = places[np.argsort(direction * difference[places], kind="stable")]
            sizes = cut_sequence(columns[places], layout.rows_allowed, multiple)
            if stop < order.size and sizes.size > 1:  # the last batch may still grow
                sizes = sizes[:-1]
            cut = columns[places[: int(sizes.sum())]]
            longest = np.maximum.reduceat(cut, np.cumsum(sizes) - sizes)
            padded = layout.areas(layout.rounded(longest)).astype(np.float64) * sizes
            ratio = float(padded.sum()) / float(layout.areas(cut).sum())
            if best is None or ratio < best[0]:
                best = (ratio, choice, stop, places, sizes)
            if stop == order.size:
                break
        if best is None:  # strips were too narrow to hold anything more
            jitter *= 2
            continue
        _, around, position, places, sizes = best
        choices = range(max(around - 1, 0), min(around + 2, len(_STRIPS)))
        taken = int(sizes.sum())
        parts.append(places[:taken])
        all_sizes.append(sizes)
        waiting, direction, jitter = places[taken:], -direction, 0.0
    return order[np.concatenate(parts)], np.concatenate(all_sizes)
