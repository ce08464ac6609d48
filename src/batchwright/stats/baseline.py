"""A plan beside the batches of today, and beside smaller ones of the same updates."""

from dataclasses import dataclass, replace

import numpy as np

from batchwright.batching import FixedSize, TokenBudget
from batchwright.budgets import ROWS as USUAL_ROWS
from batchwright.budgets import suggest
from batchwright.layout import Padded
from batchwright.planner import Planner
from batchwright.planner import plan as plan_of
from batchwright.plans import Plan
from batchwright.stats.plan_stats import PlanStats
from batchwright.typing import LengthArray

SLOTS = 8
"""Batches of an update from which on it mixes as evenly as a plain shuffle, or nearly."""

ROWS = 4
"""Samples of a smaller batch, about, at least."""

UNLIKE = 2.0
"""Updates with a larger length mix are unlike one another in length."""


MOST_LOOKED_AT = 1_000_000
"""Samples of which updates are looked at before an epoch is planned."""


@dataclass(frozen=True)
class PlainBatches:
    """Random batches of a fixed number of samples, padded to the longest: those of today."""

    batch_size: int
    assumed: bool  # whether the batch size was not given: what the budget holds of usual samples
    accumulate: int  # batches of an update on each rank
    num_batches: int
    num_steps: int
    num_tokens: int
    padded_tokens: int
    efficiency: float
    max_batch_tokens: int  # may exceed the budget, where long samples meet
    step_tokens_mean: float
    dispersion: float


@dataclass(frozen=True)
class SmallerBatches:
    """The updates of a plan, each of more and smaller batches."""

    accumulate: int  # batches of an update on each rank
    num_batches: int
    num_steps: int
    efficiency: float
    max_batch_tokens: int
    dispersion: float


def plain_batches(
    plan: Plan, entries: LengthArray, stats: PlanStats, *, batch_size: int | None = None
) -> PlainBatches | None:
    """Measure the batches of today over the samples of a plan, as long as they are there.

    An update has as many of them as come nearest to the tokens of the plan's updates; of an
    assumed batch size, as many as the plan's.

    Args:
        plan: The plan.
        entries: integer[m], the length of each of its entries.
        stats: Its figures.
        batch_size: Samples of a batch. None: as many of usual length as the budget holds, or as one
            that is suggested where it is only as large as the longest sample; where that is one, as
            many as the plan's batches have on average.

    Returns:
        None without a batch size and a budget.

    Example:
        >>> plan = plan_of([2, 2, 4, 4], max_tokens=8)
        >>> entries = plan.entry_lengths([2, 2, 4, 4])
        >>> plain_batches(plan, entries, plan.stats([2, 2, 4, 4])).batch_size
        2
    """
    layout, origin = plan.layout, plan.origin
    rows, accumulate = batch_size, origin.accumulate
    if rows is None:
        rows = _assumed(plan, entries)
    else:
        present = rows * origin.world_size * stats.num_tokens / len(entries)
        accumulate = max(1, round(stats.step_tokens_mean / present))
    if rows is None:
        return None
    multiple = layout.multiple if isinstance(layout, Padded) else 1
    made = plan_of(
        entries,
        batching=FixedSize(rows, pad_to_multiple_of=multiple),
        seed=origin.seed,
        accumulate=min(origin.world_size * accumulate, len(entries)),
    )
    found = made.stats(entries)
    return PlainBatches(
        batch_size=rows,
        assumed=batch_size is None,
        accumulate=accumulate,
        num_batches=found.num_batches,
        num_steps=found.num_steps,
        num_tokens=found.num_tokens,
        padded_tokens=found.padded_tokens,
        efficiency=found.efficiency,
        max_batch_tokens=found.max_batch_tokens,
        step_tokens_mean=found.step_tokens_mean,
        dispersion=found.dispersion,
    )


def _assumed(plan: Plan, entries: LengthArray) -> int | None:
    layout = plan.layout
    if layout.budget is None or entries.ndim == 2:
        return None
    laid_out = -(-entries.astype(np.int64) // layout.multiple) * layout.multiple
    budgets = suggest(laid_out)
    rows = layout.budget // budgets.usual
    planned = max(1, round(len(entries) / len(plan)))
    if rows < 2:
        rows = planned
    elif layout.budget <= budgets.longest:  # the longest sample decides the budget, not the rows
        rows = min(rows, planned, max(budgets.batch_size, USUAL_ROWS))
    return min(rows, layout.max_samples or rows, len(entries))


def smaller_batches(plan: Plan, entries: LengthArray, stats: PlanStats) -> SmallerBatches | None:
    """Cut the updates of a plan of padded batches within a budget into `SLOTS` batches each.

    Of fewer than `ROWS` samples for each they are cut into fewer.

    Returns:
        None where updates have as many batches, or too few samples.

    Example:
        >>> import numpy as np
        >>> lengths = np.random.default_rng(0).integers(1, 60, 400)
        >>> plan = plan_of(lengths, batch_size=32)
        >>> stats = plan.stats(lengths)
        >>> cut = smaller_batches(plan, plan.entry_lengths(lengths), stats)
        >>> cut.accumulate, cut.dispersion < 1 < stats.dispersion
        (8, True)
    """
    layout, origin = plan.layout, plan.origin
    accumulate = slots_of(len(entries), stats.num_steps) // origin.world_size
    is_budgeted = isinstance(layout, Padded) and layout.budget is not None and not layout.shapes
    if not is_budgeted or entries.ndim == 2 or accumulate <= origin.accumulate:
        return None
    if stats.num_steps < 2:
        return None
    assert layout.budget is not None  # noqa: S101 -- is_budgeted
    batching = TokenBudget(
        layout.budget, max_samples=layout.max_samples, pad_to_multiple_of=layout.multiple
    )
    step_tokens = max(1, round(stats.step_tokens_mean))
    planner = Planner(
        entries,
        batching=narrower(batching, entries, origin.accumulate / accumulate),
        seed=origin.seed,
        world_size=origin.world_size,
        step_tokens=step_tokens,
        last="repeat",  # a price has no use for a warning
    ).resized(origin.world_size, accumulate)
    found = planner(origin.epoch).stats(entries)
    return SmallerBatches(
        accumulate,
        found.num_batches,
        found.num_steps,
        found.efficiency,
        found.max_batch_tokens,
        found.dispersion,
    )


def slots_of(num_samples: int, num_steps: int) -> int:
    """Return how many batches mix the lengths of an update; fewer where it has few samples."""
    return max(1, min(SLOTS, round(num_samples / num_steps / ROWS)))


def are_unlike(dispersion: float, smaller: float) -> bool:
    """Say whether updates are unlike one another in length, and smaller batches would mix them.

    Args:
        dispersion: Length mix of the updates: 1 is a plain shuffle.
        smaller: The same of updates that are cut into smaller batches.
    """
    return dispersion > max(UNLIKE, smaller)


def keeping_batches(planner: Planner, accumulate: int) -> Planner:
    """Return a planner whose updates keep their number of batches, if fewer would not mix lengths.

    Args:
        planner: It chose for `step_tokens` how many batches are accumulated.
        accumulate: How many are accumulated today.

    Returns:
        The planner itself where its updates mix lengths as a shuffle does, or it accumulates as
        many, or its batches are packed, of several columns, or too many to look at.

    Example:
        >>> import numpy as np
        >>> lengths = np.random.default_rng(0).lognormal(3, 1, 2_000).clip(1, 400).astype(int)
        >>> planner = Planner(lengths, batch_size=4, step_tokens=1_000)
        >>> planner.accumulate, keeping_batches(planner, 8).accumulate
        (1, 8)
    """
    batching, lengths = planner.batching, planner.lengths
    if not isinstance(batching, TokenBudget) or lengths.ndim == 2:
        return planner
    if accumulate <= planner.accumulate or planner.num_samples > MOST_LOOKED_AT:
        return planner
    if planner(0).stats(planner.given).dispersion <= 1:
        return planner
    made = Planner(
        planner.given,
        batching=narrower(batching, lengths, planner.accumulate / accumulate),
        order=planner.order,
        seed=planner.seed,
        world_size=planner.world_size,
        step_tokens=planner.step_tokens,
    )
    return made.resized(planner.world_size, accumulate)


def narrower(batching: TokenBudget, lengths: LengthArray, share: float) -> TokenBudget:
    """Return the batching with a share of its budget, or what the longest sample takes."""
    multiple = batching.pad_to_multiple_of
    rows = -(-lengths.reshape(len(lengths), -1) // multiple) * multiple
    longest = int(rows.sum(axis=1).max())
    assert isinstance(batching.max_tokens, int)  # noqa: S101 -- a budget of rows
    return replace(batching, max_tokens=max(longest, int(batching.max_tokens * share)))
