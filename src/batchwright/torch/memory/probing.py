"""Which shapes to try: fake ones near the budget, real ones growing towards it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from batchwright.errors import BudgetError
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.memory.envelope import (
    Course,
    Moment,
    height,
    moments_of,
    moments_through,
    rows_within,
)
from batchwright.torch.memory.ledger import Timeline
from batchwright.typing import IntArray

_EXACT = 0.005  # where predictions come this close before they are tried, more tries are no use
_GROWTH = 8.0
_FULL = 0.9


@dataclass(frozen=True)
class Probe:
    """A step that was tried.

    Attributes:
        rows: Rows of its batch.
        length: Their length.
        predicted: Its peak above the state as predicted, in bytes.
        measured: Its peak above the state as measured. None: it was not run for real.
    """

    rows: int
    length: int
    predicted: int
    measured: int | None = None


def fake_courses(
    run: Callable[[int, int], Timeline], lengths: IntArray, *, capacity: float
) -> list[Course]:
    """Run fake steps of shapes that fill a capacity, at lengths from short to long.

    Small batches peak elsewhere than large ones: a fit to them is low by a fifth at the budget.
    So each guess at a shape that fills it is tried, and mends the next.

    Args:
        run: Runs a fake step.
        lengths: int64[d], the lengths there are, from short to long.
        capacity: Bytes above the state that a step may take.

    Returns:
        Eight to sixteen steps, fewer where there are fewer lengths: the more, the less bytes
        follow from rows and length.
    """
    courses: dict[tuple[int, int], Course] = {}

    def tried(rows: int, length: int) -> float:
        """Try a shape; return how far its peak is off what the others said."""
        if (rows, length) in courses:
            return 0.0
        before = _moments(courses) if courses else None
        timeline = run(rows, length)
        courses[rows, length] = Course(rows, length, timeline)
        if before is None:
            return np.inf
        return abs(float(height(before, rows, length)) / timeline.peak - 1)

    grid = _grid(lengths)
    for rows, length in ((2, 0), (2, -1), (4, 0), (3, -1)):
        tried(rows, grid[length])
    # Strides and pools round up: what is just above a round length may take much more.
    after = np.searchsorted(lengths, grid, side="right")
    odd = [int(length) for length in lengths[np.minimum(after, lengths.size - 1)]]
    for share, tries in ((1.0, grid), (0.5, grid), (0.75, odd)):
        surprises = []
        for length in tries[::-1]:
            moments = _moments(courses)
            surprises.append(tried(_rows(moments, share * capacity, length), length))
        if max(surprises) < _EXACT:
            break
    return list(courses.values())


def grown_probes(
    run: Callable[[int, int], int], lengths: IntArray, *, capacity: float
) -> list[Probe]:
    """Run real steps that grow towards a capacity, and never above it.

    What a step takes does not fall as it grows, so k times the rows take at most k times as much,
    and rows k times as long at most k² times. Each step is made as large as that allows.

    Args:
        run: Runs a step and returns its peak.
        lengths: int64[d], the lengths there are, from short to long.
        capacity: Bytes above the state that a step may take.

    Returns:
        The steps: single rows from short to long, then more and more rows of three lengths.

    Raises:
        BudgetError: If a single row of the longest length does not fit.
    """
    probes: dict[tuple[int, int], Probe] = {}

    def peak(rows: int, length: int) -> int:
        known = probes.get((rows, length))
        if known is None:
            taken = run(rows, length)
            moments = through(list(probes.values()), capacity) if probes else ()
            expected = int(float(height(moments, rows, length))) if moments else taken
            known = probes[rows, length] = Probe(rows, length, expected, taken)
        return known.measured or 0

    length, longest = int(lengths[0]), int(lengths[-1])
    while length < longest:
        factor = min(capacity / peak(1, length), _GROWTH) ** 0.5
        within = lengths[lengths <= length * factor]
        if within[-1] <= length:
            raise BudgetError(
                f"a row of length {length} takes {peak(1, length):,} bytes above the state, and "
                f"{capacity:,.0f} are left: not even one of length {longest} fits. Raise the "
                "limit, or drop what is longer."
            )
        length = int(within[-1])
    for length in _grid(lengths, 3):
        rows = 1
        while (factor := min(_FULL * capacity / peak(rows, length), _GROWTH)) > 1.1:
            if int(rows * factor) == rows:
                break
            rows = int(rows * factor)
    return list(probes.values())


def through(probes: Sequence[Probe], capacity: float) -> tuple[Moment, ...]:
    """Fit the moments of probes that were measured."""
    return moments_through(
        [each.rows for each in probes],
        [each.length for each in probes],
        [each.measured or 0 for each in probes],
        small=capacity / 8,
    )


def refuse_deaf(make_batch: Callable[[int, int], object], lengths: IntArray) -> None:
    """Raise if batches do not grow with their length.

    Raises:
        BudgetError: Saying how many elements there were at both lengths.
    """
    shortest, longest = int(lengths[0]), int(lengths[-1])
    if shortest == longest:
        return
    few, many = (_elements(make_batch(2, length)) for length in (shortest, longest))
    if few >= many:
        raise BudgetError(
            f"make_batch(2, {longest}) returned {many} elements and make_batch(2, {shortest}) "
            f"{few}; expected more for longer rows. Is the length, its second argument, used?"
        )


def _moments(courses: dict[tuple[int, int], Course]) -> tuple[Moment, ...]:
    return moments_of(list(courses.values()), explained=False)


def _elements(batch: object) -> int:
    return sum(tensor.numel() for tensor in tensors_of(batch))


def _grid(lengths: IntArray, points: int = 4) -> list[int]:
    """Choose lengths from the shortest to the longest, about evenly apart in their logarithm."""
    wanted = np.geomspace(lengths[0], lengths[-1], points)
    near = np.searchsorted(lengths, wanted * (1 - 1e-9))
    return sorted({int(length) for length in lengths[np.minimum(near, lengths.size - 1)]})


def _rows(moments: Sequence[Moment], capacity: float, length: int) -> int:
    return max(1, int(min(float(rows_within(moments, capacity, length)), 2**31)))
