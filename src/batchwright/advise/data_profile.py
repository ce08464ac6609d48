"""Lengths: their distribution, and the padding of each kind of batches."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from batchwright._checks import check_choice
from batchwright._format import number, percent, plural
from batchwright._random import generator
from batchwright.batching import Buckets, FixedSize, Packing, TokenBudget
from batchwright.batching.fixed_size import LengthGrouped
from batchwright.budgets import Budgets, suggest
from batchwright.errors import BudgetError, PlanError
from batchwright.lengths import as_lengths, totals, without_empty
from batchwright.planner import Planner
from batchwright.stats.baseline import ROWS, SLOTS
from batchwright.stats.dial import DialPosition, mixing_dial
from batchwright.stats.lengths import Histogram, histogram
from batchwright.typing import Batching, Empty, IntArray, IntoLengths, LengthArray

NUM_SHAPES = 8

Policy: TypeAlias = Literal["drop", "truncate"]
"""What to do with samples that are longer than the budget."""

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
class Outliers:
    """The samples that are longer than the budget, and what is done with them."""

    num_samples: int
    share: float  # of all samples
    longest_row: int  # the index of the longest sample of all
    oversize: Policy  # what is done with them
    is_given: bool  # whether the user chose it


@dataclass(frozen=True)
class DataProfile:
    """What is known of the lengths.

    Kinds of batches are ``"plain"``, ``"grouped"``, ``"planned"``, ``"packed"`` and ``"buckets"``.
    All have the same samples: `outliers` are cut to the budget, or left out.
    """

    num_samples: int
    num_tokens: int  # tokens of all samples
    columns: tuple[ColumnLengths, ...]  # one, or source and target and the like
    median: float  # of the total length of a sample
    p95: float  # the 95th percentile of it
    p999: int  # the longest, apart from the longest thousandth
    longest: int  # the longest
    max_tokens: int  # the budget of all batches below
    is_given: bool  # whether the user gave the budget
    batch_size: int  # samples of a batch of the kinds "plain" and "grouped"
    batch_size_is_given: bool
    step_tokens: int  # of an update of planned batches, unless given as many as a plain batch has
    outliers: Outliers | None  # None: no sample is longer than the budget
    is_constant: bool  # whether all samples that are not left out have the same length
    empty: Empty  # what is done with empty samples; if dropped, they are in none of the figures
    efficiency: dict[str, float]  # kind → real over padded tokens, of those that can be made
    dial: tuple[DialPosition, ...]  # the mixing dial, for updates of 8 batches
    histogram: Histogram  # of total lengths, outliers as they are: above `max_tokens`
    unit: str  # what lengths count
    seconds: float  # time to make this profile

    @property
    def mixes_if_cut(self) -> bool:
        """Whether updates with the tokens of a plain batch mix lengths if cut into 8 batches."""
        first = self.dial[0] if self.batch_size >= SLOTS * ROWS and self.dial else None
        return first is not None and first.dispersion <= 1

    @property
    def oversize(self) -> Policy | None:
        """What is done with samples that are longer than the budget. None: there are none."""
        return None if self.outliers is None else self.outliers.oversize

    @property
    def budget(self) -> str:
        """The arguments of a batching for this budget, and for samples that are longer.

        Example:
            >>> profile = profile_data([20, 30] * 500 + [100_000])
            >>> f"TokenBudget({profile.budget})"
            'TokenBudget(240, oversize="truncate")'
        """
        also = "" if self.outliers is None else f', oversize="{self.outliers.oversize}"'
        return f"{self.max_tokens}{also}"

    def about_outliers(self) -> str:
        """Say in words which samples are longer than the budget; empty if none are.

        Example:
            >>> print(profile_data([20, 30] * 500 + [100_000]).about_outliers())
            1 of 1,001 rows (0.10 %) is longer than a batch of 240 tokens: row 1,000, of 100,000. \
99.9 % of all rows are at most 30 long. It is cut to 240 here by default. To choose: \
cut it (oversize="truncate") or leave it out (oversize="drop").
        """
        found = self.outliers
        if found is None:
            return ""
        rows = f"{number(found.num_samples)} of {plural(self.num_samples, 'row')}"
        is_one = found.num_samples == 1
        it, is_ = ("it", "is") if is_one else ("them", "are")
        worst = f"row {number(found.longest_row)}, of {number(self.longest)}"
        said = (
            f"{rows} ({_small(found.share)}) {is_} longer than a batch of "
            f"{number(self.max_tokens)} {self.unit}: {'' if is_one else 'the longest is '}{worst}. "
            f"99.9 % of all rows are at most {number(self.p999)} long. "
        )
        done = f"cut to {number(self.max_tokens)}" if found.oversize == "truncate" else "left out"
        said += f"{'It' if is_one else 'They'} {is_} {done} here"
        if found.is_given:
            return f"{said}, as asked."
        ways = f'leave {it} out (oversize="drop")'
        if len(self.columns) == 1:
            ways = f'cut {it} (oversize="truncate") or {ways}'
        return f"{said} by default. To choose: {ways}."


def profile_data(
    lengths: IntoLengths,
    *,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    step_tokens: int | None = None,
    oversize: Policy | None = None,
    empty: Empty = "error",
    unit: str = "tokens",
    seed: int = 0,
) -> DataProfile:
    """Describe lengths, and the padding of their plans. 10⁷ lengths take a few seconds.

    Of many samples, a random part is planned, which has as much padding as the whole or a little
    more. If no budget is given, it is that of `batchwright.budgets.suggest`, on which a few very
    long samples have no effect.

    Args:
        lengths: integer[n], or integer[n, k] of several columns; tokens.
        max_tokens: Budget of a batch. None: suggested.
        batch_size: Samples of a plain batch. None: as many as the budget holds of usual length.
        step_tokens: Tokens of an update of planned batches. None: those of a plain batch.
        oversize: What to do with samples longer than the budget: ``"truncate"`` or ``"drop"``.
            None: truncate them; with several columns, drop them.
        empty: What to do with samples of length 0; see `Planner`.
        unit: What lengths count, for messages.
        seed: Of the random part.

    Raises:
        LengthsError: If lengths are not positive integers.
        BudgetError: If no sample is within the budget, or a setting is invalid.

    Example:
        >>> profile = profile_data([3, 5, 5, 60] * 50, max_tokens=120)
        >>> profile.efficiency["plain"] < 0.7 < profile.efficiency["planned"]
        True
    """
    started = time.perf_counter()
    if oversize is not None:
        check_choice("profile_data", "oversize", oversize, ("drop", "truncate"))
    check_choice("profile_data", "empty", empty, ("error", "drop", "one"))
    filled, gone = without_empty(lengths, empty)
    array = as_lengths(filled, columns=True)
    places = np.delete(np.arange(len(array)), gone)  # of samples in the data
    array = array[places] if gone.size else array
    sizes = totals(array)
    budgets = suggest(sizes, batch_size=batch_size, max_tokens=max_tokens)
    outliers = _outliers(sizes, budgets, oversize, places, has_columns=array.ndim == 2)
    kept = _kept(array, sizes, budgets.max_tokens, outliers)
    budget, rows = budgets.max_tokens, budgets.batch_size
    is_cut = outliers is not None and outliers.oversize == "truncate"
    kinds: dict[str, tuple[Batching, int]] = {
        "grouped": (LengthGrouped(rows), _MOST_PLANNED),
        "plain": (FixedSize(rows), _MOST_PLANNED),
        "planned": (TokenBudget(budget), _MOST_PLANNED),
        "packed": (Packing(budget), _MOST_PACKED),
        "buckets": (Buckets(NUM_SHAPES, max_tokens=budget), _MOST_PACKED),
    }
    if step_tokens is None:
        step_tokens = suggest(kept, batch_size=rows, max_tokens=budget).step_tokens
    efficiency = {}
    for name, (batching, most) in kinds.items():
        part = _part(kept, most, seed)
        step = step_tokens if name == "planned" else None  # as in the snippet
        with suppress(BudgetError, PlanError):
            planner = Planner(part, batching=batching, seed=seed, step_tokens=step)
            efficiency[name] = planner(0).stats(part).efficiency
    dial: tuple[DialPosition, ...] = ()
    if array.ndim == 1:
        part = _part(kept, _MOST_DIALLED, seed)
        with suppress(BudgetError, PlanError):
            step = step_tokens if rows >= SLOTS * ROWS else None  # else full batches
            batching = TokenBudget(budget)
            dial = mixing_dial(
                part, batching, accumulate=SLOTS, step_tokens=step, seed=seed, epochs=1
            )
    total, *columns = (_column(each, seed) for each in (sizes, *array.reshape(len(array), -1).T))
    return DataProfile(
        num_samples=len(array),
        num_tokens=total.num_tokens,
        columns=tuple(columns),
        median=total.median,
        p95=total.p95,
        p999=budgets.p999,
        longest=total.longest,
        max_tokens=budget,
        is_given=max_tokens is not None,
        batch_size=rows,
        batch_size_is_given=batch_size is not None,
        step_tokens=step_tokens,
        outliers=outliers,
        is_constant=not is_cut and bool((kept == kept[0]).all()),
        empty=empty,
        efficiency=efficiency,
        histogram=histogram(sizes),
        dial=dial,
        unit=unit,
        seconds=time.perf_counter() - started,
    )


def _small(share: float) -> str:
    """Write a small share in percent, with two digits."""
    text = f"{100 * share:.2f} %"
    return text if 0.00005 <= share < 0.01 else percent(share)


def _outliers(
    sizes: LengthArray,
    budgets: Budgets,
    oversize: Policy | None,
    places: IntArray,
    *,
    has_columns: bool,
) -> Outliers | None:
    """Say what is done with samples that are longer than the budget."""
    if not budgets.num_longer:
        return None
    if has_columns and oversize == "truncate":
        raise BudgetError(
            'oversize="truncate" for lengths of several columns: one budget does not say how long '
            'each may be. Choose oversize="drop".'
        )
    return Outliers(
        num_samples=budgets.num_longer,
        share=budgets.share_longer,
        longest_row=int(places[sizes.argmax()]),
        oversize=oversize or ("drop" if has_columns else "truncate"),
        is_given=oversize is not None,
    )


def _kept(
    array: LengthArray, sizes: LengthArray, budget: int, outliers: Outliers | None
) -> LengthArray:
    """Return the lengths that are planned: outliers cut, or left out."""
    if outliers is None:
        return array
    if outliers.oversize == "truncate":
        cut: LengthArray = np.minimum(array, budget)
        return cut
    kept: LengthArray = array[sizes <= budget]
    if not len(kept):
        raise BudgetError(
            f"no sample is within max_tokens={budget:,}: the shortest of {len(array):,} is "
            f'{int(sizes.min()):,} long. Raise max_tokens, or choose oversize="truncate".'
        )
    return kept


def _column(lengths: LengthArray, seed: int) -> ColumnLengths:
    median, p95 = np.quantile(_part(lengths, _MOST_PLANNED, seed), [0.5, 0.95])
    tokens = int(lengths.sum(dtype=np.int64))
    return ColumnLengths(tokens, float(median), float(p95), int(lengths.max()))


def _part(array: LengthArray, most: int, seed: int) -> LengthArray:
    """Draw a part without replacement, including the longest sample of each column."""
    if len(array) <= most:
        return array
    chosen = generator(seed, "advice").choice(len(array), most, replace=False, shuffle=False)
    part: LengthArray = array[np.union1d(chosen, array.argmax(axis=0))]
    return part
