"""Padded batches of samples with several lengths each: source and target, height and width.

One sort cannot bring samples together that are alike in two ways. So samples are sorted by their
longest column, that sequence is cut into strips of a few batches, and each strip is sorted by
how its columns differ, every other one the other way round. How many batches a strip has is
tried out as it goes along: wide strips let the longest column vary, narrow ones the others.
"""

from __future__ import annotations

import numpy as np

from batchwright.layout import Layout
from batchwright.seeding import random_bits, shuffled
from batchwright.typing import FloatArray, IntArray, LengthArray

_STRIPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])
"""Batches of a strip."""


def cut_columns(lengths: IntArray, layout: Layout, *, batch_size_multiple_of: int = 1) -> IntArray:
    """Cut a sequence into padded batches without changing it: as many rows as fit, each time.

    Args:
        lengths: int64[m, k], in the sequence to keep; each alone fits.
        layout: The budget.
        batch_size_multiple_of: Batches larger than this hold a multiple of it.

    Returns:
        int64[b], samples in each batch. O(m), with a few short vector operations for each batch.

    Example:
        >>> cut_columns(np.array([[2, 3], [3, 2], [9, 9]]), Layout(budget=18))
        array([2, 1])
    """
    most = layout.rows_allowed(lengths).tolist()
    sizes = []
    position = 0
    while position < len(most):
        window = lengths[position : position + most[position]]
        allowed = layout.rows_allowed(np.maximum.accumulate(window, axis=0))
        size = int(np.count_nonzero(allowed >= np.arange(1, len(window) + 1)))
        if batch_size_multiple_of < size:
            size -= size % batch_size_multiple_of
        sizes.append(size)
        position += size
    return np.array(sizes, dtype=np.int64)


def cut_strips(
    lengths: LengthArray,
    members: IntArray,
    layout: Layout,
    rng: np.random.Generator,
    *,
    batch_size_multiple_of: int = 1,
) -> tuple[IntArray, IntArray]:
    """Rearrange a pool, and cut it into batches with little padding in every column.

    Args:
        lengths: integer[n, k], of every sample; each alone fits.
        members: int64[m], the samples of the pool.
        layout: The budget.
        rng: Where ties, and the first strip, get their chance from.
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
        sizes = cut_columns(columns[places], layout, batch_size_multiple_of=batch_size_multiple_of)
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
        # No epoch has the strips of another, and so not its batches.
        jitter = max(jitter, 0.75 + 0.5 * float(random_bits(rng, 1)[0] >> np.uint64(11)) / 2**53)
        best: tuple[float, int, IntArray, IntArray] | None = None
        for choice in _near(around):
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


def _near(choice: int | None) -> list[int]:
    """Return which strips to try: all at first, then those next to the one that was best."""
    if choice is None:
        return list(range(_STRIPS.size))
    return [each for each in range(choice - 1, choice + 2) if 0 <= each < _STRIPS.size]
