"""What a sample of some length costs, and samples shared so that every part costs alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np
import numpy.typing as npt

from batchwright._checks import real_number, whole_number
from batchwright.errors import BudgetError, PlanError
from batchwright.order.scores import as_weights
from batchwright.typing import FloatArray, IntArray

_ALL_WAYS = 1 << 18
"""Up to so many ways to share are all compared."""

_ONE_BY_ONE = 1 << 15
"""Up to so many samples are assigned one by one, more in rounds."""


@dataclass(frozen=True)
class CostModel:
    """The work of a row of some length: ``a + b·L + c·L²``.

    A constant for each row, the part that grows with tokens, and attention, which looks at every
    pair of them. Where a `cost` is asked for, a model of this kind is one.

    Args:
        a: Of each row.
        b: Of each token.
        c: Of each pair of tokens.

    Raises:
        BudgetError: If a coefficient is negative or no number, or all are 0.

    Example:
        >>> cost = CostModel(a=10, b=2, c=0.5)
        >>> cost([1, 10])
        array([12.5, 80. ])
    """

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0

    def __post_init__(self) -> None:
        """Check the coefficients."""
        expected = "finite coefficients of at least 0, not all of them 0"
        for name in ("a", "b", "c"):
            value = real_number(
                "CostModel",
                name,
                getattr(self, name),
                accepts=lambda value: 0 <= value < np.inf,
                expected=expected,
            )
            object.__setattr__(self, name, value)
        if not (self.a or self.b or self.c):
            raise BudgetError(f"{self}: expected coefficients of at least 0, not all of them 0.")

    def __call__(self, lengths: npt.ArrayLike) -> FloatArray:
        """Return the work of a row of each length, float64[m]."""
        tokens = np.asarray(lengths, dtype=np.float64)
        work: FloatArray = self.a + tokens * (self.b + self.c * tokens)
        return work

    def rows_within(self, limit: float) -> Callable[[IntArray], IntArray]:
        """Turn a limit of work into rows for each length: ``TokenBudget(max_samples=…)``.

        Args:
            limit: The work that a batch may be.

        Returns:
            A function of padded lengths, int64[m] → int64[m]: the most rows, at least 1.

        Example:
            >>> rows = CostModel(c=1.0).rows_within(10_000)
            >>> rows(np.array([10, 50, 200]))
            array([100,   4,   1])
        """
        limit = real_number(
            "rows_within",
            "limit",
            limit,
            accepts=lambda value: value > 0,
            expected="a positive limit of work",
        )

        def rows(lengths: IntArray) -> IntArray:
            return np.maximum(np.floor(limit / self(lengths)), 1.0).astype(np.int64)

        return rows


def balance(costs: npt.ArrayLike, parts: int, *, equal_counts: bool = False) -> IntArray:
    """Share samples among parts, so that the most expensive part costs the least.

    For batches that come as they are, such as the rollouts of a reinforcement learner. Few samples
    are shared in the best of all ways. Of many, the most expensive first, each goes to the part
    that costs the least so far; with a hundred samples a part that is within a thousandth of the
    mean.

    Args:
        costs: float64[n], work of each sample: its length, a `CostModel` of it, or whatever it is
            measured in; at least 0.
        parts: How many: ranks, or slots of one rank.
        equal_counts: Give every part as many samples; `n` has to be a multiple of `parts`.

    Returns:
        int64[n], the part of each sample. O(n log n).

    Raises:
        PlanError: If there are fewer samples than parts, or they cannot be shared equally.
        LengthsError: If a cost is negative, NaN or infinite.

    Example:
        >>> part = balance([7, 5, 4, 4, 2, 2], 2)
        >>> np.bincount(part, weights=[7, 5, 4, 4, 2, 2])
        array([12., 12.])

    Source: longest processing time first: R. L. Graham, *Bounds on Multiprocessing Timing
    Anomalies*, 1969.
    """
    work = as_weights(costs, name="costs")
    parts = whole_number("balance", "parts", parts, error=PlanError)
    if type(equal_counts).__name__ not in {"bool", "bool_"}:
        raise PlanError(f"balance(equal_counts={equal_counts!r:.60}): expected True or False.")
    if work.size < parts:
        raise PlanError(
            f"{work.size} samples for {parts} parts: expected at least one sample for each."
        )
    if equal_counts and work.size % parts:
        raise PlanError(
            f"{work.size} samples cannot be shared equally among {parts} parts: expected a "
            "multiple. Leave some out, or allow other counts."
        )
    each = work.size // parts if equal_counts else None
    if parts**work.size <= _ALL_WAYS:
        return _best_of_all(work, parts, each)
    if work.size <= _ONE_BY_ONE:
        return _one_by_one(work, parts, each)
    return _in_rounds(work, parts)


def _best_of_all(work: FloatArray, parts: int, each: int | None) -> IntArray:
    """Try every way to share; the first of equals."""
    ways = np.arange(parts**work.size)[:, None] // parts ** np.arange(work.size) % parts
    loads = np.stack([np.where(ways == part, work, 0.0).sum(axis=1) for part in range(parts)])
    worst = loads.max(axis=0)
    counts = np.stack([(ways == part).sum(axis=1) for part in range(parts)])
    allowed = counts.min(axis=0) >= (1 if each is None else each)
    best: IntArray = ways[int(np.argmin(np.where(allowed, worst, np.inf)))].astype(np.int64)
    return best


def _one_by_one(work: FloatArray, parts: int, each: int | None) -> IntArray:
    order = np.argsort(-work, kind="stable")
    # Of parts that cost nothing, the empty ones come first: none stays empty.
    heap = [(0.0, False, part) for part in range(parts)]
    heapify(heap)
    chosen: list[int] = []
    left = [work.size if each is None else each] * parts
    for cost in work[order].tolist():
        load, _, part = heap[0]
        left[part] -= 1
        # A part that is full gets nothing more.
        load = load + cost if left[part] else np.inf
        heapreplace(heap, (load, load == 0, part))
        chosen.append(part)
    result = np.empty(work.size, dtype=np.int64)
    result[order] = chosen
    return result


def _in_rounds(work: FloatArray, parts: int) -> IntArray:
    """Give each part one sample a round: the most expensive to the part with the least."""
    order = np.argsort(-work, kind="stable")
    result = np.empty(work.size, dtype=np.int64)
    loads = np.zeros(parts)
    for start in range(0, work.size, parts):
        taken = order[start : start + parts]
        free = np.argsort(loads, kind="stable")[: taken.size]
        result[taken] = free
        loads[free] += work[taken]
    return result
