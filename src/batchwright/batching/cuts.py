"""Where to cut samples into padded batches.

Sorted samples are cut by how many there are of each length. A binding sequence is cut where it
stands. Samples of several lengths are cut in strips.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from batchwright._random import random_bits, shuffled
from batchwright.batching.cut import Cut
from batchwright.layout import Padded
from batchwright.typing import IntArray, LengthArray

MaxSamples: TypeAlias = int | Callable[[IntArray], IntArray] | None
"""The most rows in a batch; or a function of their padded length, int64[m] → int64[m]."""

_ROUNDS = 12
"""Budgets that are tried at most."""

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


def on_grid(
    values: IntArray, counts: IntArray, slack: float, phase: float
) -> tuple[IntArray, IntArray]:
    """Count samples by the cells of a grid of lengths, each as its longest, int64[r] → int64[c].

    Cells reach down from a length L to ``L / (1 + slack)``; `phase`, in [0, 1), makes the first one
    smaller, and so moves the others.

    Example:
        >>> on_grid(np.array([100, 99, 97, 50]), np.array([1, 1, 1, 1]), 0.02, 0.0)
        (array([100,  97,  50]), array([2, 1, 1]))
    """
    edge, edges = float(values[0]) / (1.0 + slack * (1.0 - phase)), []
    while edge > values[-1]:
        edges.append(edge)
        edge /= 1.0 + slack
    # The cell of each length is how many edges are above it; its longest length comes first.
    cell = np.searchsorted(-np.array(edges), -values.astype(np.float64))
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    return values[starts], np.add.reduceat(counts, starts)


def cut_stretches(values: IntArray, counts: IntArray, rows: IntArray) -> Cut:
    """Cut sorted samples into batches, each as large as the longest sample of its stretch allows.

    Takes the distinct lengths from long to short, how many samples have each, and how many rows of
    each make a batch, int64[r]. A stretch begins with the longest samples that are left, and ends
    where its last batch is full. O(r) steps.
    """
    opened, starts, many = _stretches(counts, rows)
    start, batches = np.array(starts), np.array(many)
    first = np.cumsum(batches) - batches
    return Cut(start, np.diff(start, append=counts.sum()), first, batches, values[opened])


def _stretches(counts: IntArray, rows: IntArray) -> tuple[list[int], list[int], list[int]]:
    """Return which length each stretch begins with, at which sample, and its batches."""
    ends, allowed = np.cumsum(counts).tolist(), rows.tolist()
    opened: list[int] = []
    starts: list[int] = []
    many: list[int] = []
    position = run = 0
    while position < ends[-1]:
        batches = -(-(ends[run] - position) // allowed[run])
        opened.append(run)
        starts.append(position)
        many.append(batches)
        position += batches * allowed[run]
        run = bisect_right(ends, position, run)
    return opened, starts, many


def fit_stretches(
    values: IntArray, counts: IntArray, limit: RowLimit, num_batches: int | None
) -> Cut:
    """Cut sorted samples into `num_batches`; into as many as they need, if those are more.

    The budget is lowered as far as the number allows, so that all batches become a little smaller;
    samples that are longer are alone. The few that are still missing come of splitting some.
    """
    rows = limit(values)
    needed = sum(_stretches(counts, rows)[2])
    if num_batches is None or needed >= num_batches:
        return cut_stretches(values, counts, rows)
    # Batches grow in number about as the budget shrinks: look around there, in growing steps.
    guess = limit.max_tokens * needed // num_batches
    step = max(1, guess >> 7)
    low, high = 0, limit.max_tokens
    for _ in range(_ROUNDS):
        if high - low <= 1 or needed == num_batches:
            break
        middle = guess if low < guess < high else (low + high) // 2
        fewer = np.maximum(limit(values, max_tokens=middle), 1)
        count = sum(_stretches(counts, fewer)[2])
        if count > num_batches:
            low, guess = middle, middle + step
        else:
            high, rows, needed, guess = middle, fewer, count, middle - step
        step *= 2
    return cut_stretches(values, counts, rows).split_to(num_batches)


def cut_by_update(
    values: IntArray, counts: IntArray, limit: RowLimit, strata: int, num_updates: int | None
) -> Cut | None:
    """Cut sorted samples so that every update can get the same share of every length.

    Each of the `strata` is one stretch, spread over one batch of each of `num_updates`: an update
    of one batch of each stratum has one of every `num_updates` neighbouring samples. None for the
    number of updates takes the fewest that keep the budget. Returns None where samples are too few.
    """
    ends, allowed = np.cumsum(counts), limit(values)
    edges, rows, size = ends.tolist(), allowed.tolist(), int(ends[-1])

    def cut(updates: int) -> list[int]:
        """Return the rounds of each stratum, as many as it takes; stop where they are too many."""
        rounds: list[int] = []
        left, position = -(-size // updates), 0
        while left > 0 and len(rounds) <= strata:
            fit = rows[bisect_right(edges, position)]
            rounds.append(min(fit, left))
            left -= fit
            position += fit * updates
        return rounds

    if num_updates is None:
        low, high = 1, size
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(cut(middle)) <= strata else (middle + 1, high)
        num_updates = low
    if not 0 < num_updates * strata <= size or len(cut(num_updates)) > strata:
        return None
    rounds = cut(num_updates)
    while (missing := strata - len(rounds)) > 0:  # halve the largest, all that are equal at once
        most, halved = max(rounds), []
        for each in rounds:
            is_split = each == most and missing > 0
            halved += [each - each // 2, each // 2] if is_split else [each]
            missing -= is_split
        rounds = halved
    if rounds[-1] == 1 and size % num_updates:  # a round that is not full: no batch may be empty
        giver = max(each for each in range(strata) if rounds[each] > 1)
        rounds[giver] -= 1
        rounds[-1] += 1
    samples = np.array(rounds) * num_updates
    start = np.cumsum(samples) - samples
    samples[-1] = size - start[-1]
    first = np.arange(strata) * num_updates
    lengths = values[np.searchsorted(ends, start, side="right")]
    return Cut(start, samples, first, np.full(strata, num_updates), lengths)


def cut_in_windows(
    values: IntArray,
    counts: IntArray,
    limit: RowLimit,
    *,
    strata: int,
    window: int,
    num_updates: int | None,
) -> Cut | None:
    """Do the same as `cut_by_update` for windows of some updates: with shorter stretches.

    Each stratum is cut into as many stretches as there are updates in a window. Returns None also
    where one window would be the whole epoch.
    """
    ends, allowed = np.cumsum(counts), limit(values)
    edges, rows, size = ends.tolist(), allowed.tolist(), int(ends[-1])

    def cut(updates: int) -> tuple[list[int], list[int]]:
        """Return the batches of each stretch, and the most rounds; stop where all are placed."""
        cells = min(window, updates)
        shares: list[int] = np.diff(np.arange(cells + 1) * updates // cells).tolist() * strata
        rounds: list[int] = []
        position = 0
        for batches in shares:
            if position >= size:
                break
            rounds.append(rows[bisect_right(edges, position)])
            position += rounds[-1] * batches
        return (shares[: len(rounds)], rounds) if position >= size else ([], [])

    if num_updates is None:
        low, high = 1, size // strata
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if cut(middle)[0] else (middle + 1, high)
        num_updates = low
    if num_updates <= window or num_updates * strata > size:
        return None
    batches, rounds = cut(num_updates)
    if not batches:
        return None
    samples = np.array(batches) * np.array(rounds)
    start = np.cumsum(samples) - samples
    samples[-1] = size - start[-1]
    batches[-1] = min(batches[-1], int(samples[-1]))
    # Of equal samples one stretch: else a batch would be of neighbours in the data.
    first, last = (ends.searchsorted(each, "right") for each in (start, start + samples - 1))
    heads = np.flatnonzero(np.append(True, last[1:] != first[:-1]))
    many, samples = np.add.reduceat(batches, heads), np.add.reduceat(samples, heads)
    found = Cut(start[heads], samples, np.cumsum(many) - many, many, values[first[heads]])
    return found.split_to(strata * num_updates)


def cut_sequence(
    lengths: IntArray,
    rows_allowed: Callable[[IntArray], IntArray],
    multiple: int = 1,
    *,
    stops: IntArray | None = None,
    sizes: IntArray | None = None,
) -> IntArray:
    """Cut a sequence into padded batches without changing it: as many rows as fit, each time.

    Takes lengths int64[m] or [m, k], each of which fits alone, and the rows that fit for a longest
    length, never more for a longer one. Batches larger than `multiple` hold a multiple of it. A
    batch that begins at sample `i` ends before ``stops[i]``; sample `i` is ``sizes[i]`` rows.
    Returns the samples in each batch, int64[b].
    """
    most = rows_allowed(lengths)
    found: list[int] = []
    position = 0
    while position < len(lengths):
        stop = position + int(most[position])
        if stops is not None:
            stop = min(stop, int(stops[position]))
        if lengths.ndim == 1:
            allowed = np.minimum.accumulate(most[position:stop])
        else:
            allowed = rows_allowed(np.maximum.accumulate(lengths[position:stop], axis=0))
        rows = np.arange(1, allowed.size + 1) if sizes is None else np.cumsum(sizes[position:stop])
        size = max(1, int(np.count_nonzero(allowed >= rows)))
        found.append(size - size % multiple if multiple < size and sizes is None else size)
        position += found[-1]
    return np.array(found, dtype=np.int64)


def cut_strips(
    lengths: LengthArray,
    members: IntArray,
    layout: Padded,
    rng: np.random.Generator,
    multiple: int,
    *,
    sizes: IntArray | None = None,
) -> tuple[IntArray, IntArray]:
    """Rearrange samples of several lengths, and cut them with little padding in every column.

    No single sort brings samples together that are alike in two ways. So they are sorted by
    their longest column, that sequence is cut into strips of a few batches, and each strip is
    sorted by how its columns differ, every other one in reverse. The number of batches of each
    strip is tried out: wide strips let the longest column vary, narrow ones the others.

    Sample `i` is ``sizes[i]`` rows, one if there are none. Returns the samples, batch after batch,
    int64[m]; and how many are in each, int64[b].
    """
    order = shuffled(members, rng)
    rows = None if sizes is None else sizes[order]
    columns = lengths[order].astype(np.int64, copy=False)
    scaled = columns / (1.0 if layout.caps is None else np.array(layout.caps))
    by_longest = np.lexsort((-scaled.min(axis=1), -scaled.max(axis=1)))
    order, columns, scaled = order[by_longest], columns[by_longest], scaled[by_longest]
    rows = None if rows is None else rows[by_longest]
    difference = scaled[:, 0] - scaled[:, 1:].mean(axis=1)
    shares = (1.0 if rows is None else rows) / layout.rows_allowed(columns)
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
            own = None if rows is None else rows[places]
            found = cut_sequence(columns[places], layout.rows_allowed, multiple, sizes=own)
            if stop < order.size and found.size > 1:  # the last batch may still grow
                found = found[:-1]
            cut = columns[places[: int(found.sum())]]
            begins = np.cumsum(found) - found
            longest, each = np.maximum.reduceat(cut, begins), np.ones(len(cut), dtype=np.int64)
            each = each if own is None else own[: len(cut)]
            padded = layout.areas(layout.rounded(longest)).astype(np.float64)
            padded *= np.add.reduceat(each, begins)
            ratio = float(padded.sum()) / float((layout.areas(cut) * each).sum())
            if best is None or ratio < best[0]:
                best = (ratio, choice, stop, places, found)
            if stop == order.size:
                break
        if best is None:  # strips were too narrow to hold anything more
            jitter *= 2
            continue
        _, around, position, places, found = best
        choices = range(max(around - 1, 0), min(around + 2, len(_STRIPS)))
        taken = int(found.sum())
        parts.append(places[:taken])
        all_sizes.append(found)
        waiting, direction, jitter = places[taken:], -direction, 0.0
    return order[np.concatenate(parts)], np.concatenate(all_sizes)
