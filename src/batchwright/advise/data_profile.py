"""What lengths alone tell: how they are spread, and what each way to make batches pads."""

import time
from dataclasses import dataclass

import numpy as np

from batchwright.batching import Batching, Buckets, FixedSize, Packing, TokenBudget
from batchwright.dial import DialPosition, mixing_dial
from batchwright.errors import BudgetError, PlanError
from batchwright.lengths import as_lengths, totals
from batchwright.planner import plan
from batchwright.seeding import generator
from batchwright.stats.lengths import Histogram, histogram
from batchwright.typing import IntoLengths, LengthArray

ROWS = 8
"""Samples of the longest kind that a batch holds, where no budget is given."""

NUM_SHAPES = 8

_MOST_PLANNED = 1_000_000
_MOST_PACKED = 200_000
_MOST_DIALLED = 50_000

MEGABATCH = 50
"""Batches that trainers sort together by length."""


@dataclass(frozen=True)
class ColumnLengths:
    """How long samples are in one column.

    Attributes:
        num_tokens: All together.
        median: Half of the samples are not longer.
        p95: What 95 % are not longer than.
        longest: The longest.
    """

    num_tokens: int
    median: float
    p95: float
    longest: int


@dataclass(frozen=True)
class DataProfile:
    """What is known of the lengths.

    Attributes:
        num_samples: How many there are.
        num_tokens: All together.
        columns: Of each length that a sample has: one, or source and target and the like.
        median: Of the total length of a sample.
        p95: What 95 % are not longer than.
        longest: The longest.
        max_tokens: The budget that all batches below keep.
        is_given: Whether the user has given it.
        efficiency: Kind of batches (``"plain"``, ``"grouped"``, ``"planned"``, ``"packed"``,
            ``"buckets"``) → real over padded tokens; those that cannot be made are absent.
        dial: The mixing dial, for updates of 8 batches.
        histogram: Of total lengths.
        seconds: What finding that out took.
    """

    num_samples: int
    num_tokens: int
    columns: tuple[ColumnLengths, ...]
    median: float
    p95: float
    longest: int
    max_tokens: int
    is_given: bool
    efficiency: dict[str, float]
    dial: tuple[DialPosition, ...]
    histogram: Histogram
    seconds: float

    @property
    def is_constant(self) -> bool:
        """Whether all samples are equally long."""
        return self.efficiency.get("plain", 0.0) == 1.0 and self.median == self.longest


def profile_data(
    lengths: IntoLengths, *, max_tokens: int | None = None, seed: int = 0
) -> DataProfile:
    """Look at lengths, and at what plans of them would pad.

    Of many samples a random part is planned; it pads as the whole does, or a little more.

    Args:
        lengths: integer[n], or integer[n, k] of several columns; tokens.
        max_tokens: Budget of a batch. None: `ROWS` times the longest sample.
        seed: Of the part.

    Returns:
        The profile. 10⁷ lengths take a few seconds.

    Raises:
        LengthsError: If lengths are no positive whole numbers.
        BudgetError: If the longest sample exceeds the budget.

    Example:
        >>> profile = profile_data([3, 5, 5, 60] * 50, max_tokens=120)
        >>> profile.efficiency["plain"] < 0.7 < profile.efficiency["planned"]
        True
    """
    started = time.perf_counter()
    array = as_lengths(lengths, columns=True)
    sizes = totals(array)
    longest = int(array.max(axis=0).sum())
    budget = ROWS * longest if max_tokens is None else max_tokens
    if longest > budget:
        raise BudgetError(
            f"the longest sample takes {longest:,} tokens, more than max_tokens={budget:,}. "
            "Raise max_tokens, or cut what is longer."
        )
    part = _part(array, _MOST_PLANNED, seed)
    rows = budget // longest
    kinds: dict[str, Batching] = {
        "plain": FixedSize(rows),
        "planned": TokenBudget(budget),
        "packed": Packing(budget),
        "buckets": Buckets(NUM_SHAPES, max_tokens=budget),
    }
    efficiency = {"grouped": _grouped_efficiency(part, rows, seed)}
    for name, batching in kinds.items():
        planned = _part(part, _MOST_PACKED, seed) if name in {"packed", "buckets"} else part
        try:
            stats = plan(planned, batching=batching, seed=seed).stats(planned)
        except (BudgetError, PlanError):
            continue
        efficiency[name] = stats.efficiency
    median, p95 = np.quantile(_part(sizes, _MOST_PLANNED, seed), [0.5, 0.95])
    return DataProfile(
        num_samples=len(array),
        num_tokens=int(sizes.sum(dtype=np.int64)),
        columns=tuple(_column(each, seed) for each in array.reshape(len(array), -1).T),
        median=float(median),
        p95=float(p95),
        longest=int(sizes.max()),
        max_tokens=budget,
        is_given=max_tokens is not None,
        efficiency=efficiency,
        histogram=histogram(sizes),
        dial=_dial(_part(array, _MOST_DIALLED, seed), budget, seed),
        seconds=time.perf_counter() - started,
    )


def _column(lengths: LengthArray, seed: int) -> ColumnLengths:
    median, p95 = np.quantile(_part(lengths, _MOST_PLANNED, seed), [0.5, 0.95])
    total = int(lengths.sum(dtype=np.int64))
    return ColumnLengths(total, float(median), float(p95), int(lengths.max()))


def _part(array: LengthArray, most: int, seed: int) -> LengthArray:
    """Draw a part without replacement, the longest sample of each column included."""
    if len(array) <= most:
        return array
    chosen = generator(seed, "advice").choice(len(array), most, replace=False, shuffle=False)
    longest = np.atleast_1d(array.argmax(axis=0))
    part: LengthArray = array[np.union1d(chosen, longest)]
    return part


def _grouped_efficiency(lengths: LengthArray, rows: int, seed: int) -> float:
    """Return what sorting by length within megabatches leaves of padded batches."""
    columns = lengths.reshape(len(lengths), -1)
    order = generator(seed, "advice of groups").permutation(len(columns))
    group = np.arange(order.size) // (MEGABATCH * rows)
    order = order[np.lexsort((-totals(lengths)[order].astype(np.int64), group))]
    starts = np.arange(0, order.size, rows)
    longest = np.maximum.reduceat(columns[order], starts, axis=0).astype(np.int64).sum(axis=1)
    padded = int((longest * np.diff(np.append(starts, order.size))).sum())
    return int(columns.sum(dtype=np.int64)) / padded


def _dial(lengths: LengthArray, budget: int, seed: int) -> tuple[DialPosition, ...]:
    if lengths.ndim > 1:
        return ()
    try:
        return mixing_dial(lengths, TokenBudget(budget), accumulate=8, seed=seed, epochs=1)
    except (BudgetError, PlanError):
        return ()
