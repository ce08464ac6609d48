"""Lengths: their distribution, and the padding of each kind of batches."""

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from batchwright._random import generator
from batchwright.batching import Buckets, FixedSize, Packing, TokenBudget
from batchwright.batching.fixed_size import LengthGrouped
from batchwright.errors import BudgetError, PlanError
from batchwright.lengths import as_lengths, totals
from batchwright.planner import plan
from batchwright.stats.dial import DialPosition, mixing_dial
from batchwright.stats.lengths import Histogram, histogram
from batchwright.typing import Batching, IntoLengths, LengthArray

ROWS = 8
"""Samples of the longest kind in a batch, where no budget is given."""

NUM_SHAPES = 8

_MOST_PLANNED = 1_000_000
_MOST_PACKED = 200_000
_MOST_DIALLED = 50_000


@dataclass(frozen=True)
class ColumnLengths:
    """The lengths of samples in one column, in tokens."""

    num_tokens: int
    median: float
    p95: float
    longest: int


@dataclass(frozen=True)
class DataProfile:
    """What is known of the lengths.

    Kinds of batches are ``"plain"``, ``"grouped"``, ``"planned"``, ``"packed"`` and ``"buckets"``.
    """

    num_samples: int
    num_tokens: int  # tokens of all samples
    columns: tuple[ColumnLengths, ...]  # one, or source and target and the like
    median: float  # of the total length of a sample
    p95: float  # the 95th percentile of it
    longest: int  # the longest
    max_tokens: int  # the budget of all batches below
    is_given: bool  # whether the user gave the budget
    efficiency: dict[str, float]  # kind → real over padded tokens, of those that can be made
    dial: tuple[DialPosition, ...]  # the mixing dial, for updates of 8 batches
    histogram: Histogram  # of total lengths
    seconds: float  # time to make this profile

    @property
    def is_constant(self) -> bool:
        """Whether all samples are equally long."""
        return self.efficiency.get("plain", 0.0) == 1.0 and self.median == self.longest


def profile_data(
    lengths: IntoLengths, *, max_tokens: int | None = None, seed: int = 0
) -> DataProfile:
    """Describe lengths, and the padding of their plans. 10⁷ lengths take a few seconds.

    Of many samples a random part is planned, which pads as much as the whole or a little more.

    Args:
        lengths: integer[n], or integer[n, k] of several columns; tokens.
        max_tokens: Budget of a batch. None: `ROWS` times the longest sample.
        seed: Of the random part.

    Raises:
        LengthsError: If lengths are not positive integers.
        BudgetError: If the longest sample exceeds the budget.

    Example:
        >>> profile = profile_data([3, 5, 5, 60] * 50, max_tokens=120)
        >>> profile.efficiency["plain"] < 0.7 < profile.efficiency["planned"]
        True
    """
    started = time.perf_counter()
    array = as_lengths(lengths, columns=True)
    longest = int(array.max(axis=0).sum())
    budget = ROWS * longest if max_tokens is None else max_tokens
    if longest > budget:
        raise BudgetError(
            f"the longest sample takes {longest:,} tokens, more than max_tokens={budget:,}. "
            "Raise max_tokens, or leave out or cut longer samples."
        )
    kinds: dict[str, tuple[Batching, int]] = {
        "grouped": (LengthGrouped(budget // longest), _MOST_PLANNED),
        "plain": (FixedSize(budget // longest), _MOST_PLANNED),
        "planned": (TokenBudget(budget), _MOST_PLANNED),
        "packed": (Packing(budget), _MOST_PACKED),
        "buckets": (Buckets(NUM_SHAPES, max_tokens=budget), _MOST_PACKED),
    }
    efficiency = {}
    for name, (batching, most) in kinds.items():
        part = _part(array, most, seed)
        with suppress(BudgetError, PlanError):
            efficiency[name] = plan(part, batching=batching, seed=seed).stats(part).efficiency
    dial: tuple[DialPosition, ...] = ()
    if array.ndim == 1:
        part = _part(array, _MOST_DIALLED, seed)
        with suppress(BudgetError, PlanError):
            dial = mixing_dial(part, TokenBudget(budget), accumulate=8, seed=seed, epochs=1)
    sizes = totals(array)
    total, *columns = (_column(each, seed) for each in (sizes, *array.reshape(len(array), -1).T))
    return DataProfile(
        num_samples=len(array),
        num_tokens=total.num_tokens,
        columns=tuple(columns),
        median=total.median,
        p95=total.p95,
        longest=total.longest,
        max_tokens=budget,
        is_given=max_tokens is not None,
        efficiency=efficiency,
        histogram=histogram(sizes),
        dial=dial,
        seconds=time.perf_counter() - started,
    )


def _column(lengths: LengthArray, seed: int) -> ColumnLengths:
    median, p95 = np.quantile(_part(lengths, _MOST_PLANNED, seed), [0.5, 0.95])
    tokens = int(lengths.sum(dtype=np.int64))
    return ColumnLengths(tokens, float(median), float(p95), int(lengths.max()))


def _part(array: LengthArray, most: int, seed: int) -> LengthArray:
    """Draw a part without replacement, the longest sample of each column included."""
    if len(array) <= most:
        return array
    chosen = generator(seed, "advice").choice(len(array), most, replace=False, shuffle=False)
    part: LengthArray = array[np.union1d(chosen, array.argmax(axis=0))]
    return part
