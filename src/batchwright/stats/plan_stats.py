"""What a plan is worth: every number of the guarantees."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from batchwright._format import percent
from batchwright.budgets import without_outliers
from batchwright.lengths import Lengths, sums_of_batches, total_of
from batchwright.typing import Cost, IntArray, IntoLengths
from batchwright.updates import rank_imbalance

if TYPE_CHECKING:
    from batchwright.plans import Plan


@dataclass(frozen=True)
class PlanStats:
    """The figures of a plan, under the names of the ``--json`` keys.

    Attributes:
        num_samples: Samples in the plan; pieces of one sample count once.
        num_batches: Batches, over all ranks.
        num_steps: Updates of ``world_size * accumulate`` batches; the last may have fewer.
        num_tokens: Real tokens.
        padded_tokens: Tokens as laid out, padding included.
        efficiency: Real over padded tokens.
        budget: Tokens a batch may hold; where each column has its own limit, all together. None:
            no limit.
        max_batch_tokens: The largest batch as laid out.
        fill: Mean share of the budget that batches use. None without a budget.
        lower_bound: No plan of these samples within the budget has fewer batches.
        gap: How many more there are, as a share of the bound.
        shapes: Distinct shapes of a batch.
        samples_per_batch_mean: Samples in a batch.
        samples_per_batch_std: Their spread.
        samples_per_batch_max: The most.
        step_tokens_mean: Real tokens of an update.
        step_tokens_std: Their spread.
        dispersion: How unlike one another updates are: 1 is a plain shuffle, less is more even.
        imbalance_padded: Slowest rank over the mean, in padded tokens, summed over updates.
        imbalance_quadratic: The same in squared lengths, as full attention costs.
        dropped: Samples left out.
        dropped_by_reason: How many, for each reason.
        truncated: Samples that lose tokens.
        split: Samples that are cut into pieces.
        repeated: Entries beyond the first of their sample (or piece): draws, and samples that
            come once more to fill batches.
        world_size: Ranks the plan was made for.
        accumulate: Batches of an update on each rank.
        seed: The seed.
        epoch: The epoch.
    """

    num_samples: int
    num_batches: int
    num_steps: int
    num_tokens: int
    padded_tokens: int
    efficiency: float
    budget: int | None
    max_batch_tokens: int
    fill: float | None
    lower_bound: int
    gap: float
    shapes: int
    samples_per_batch_mean: float
    samples_per_batch_std: float
    samples_per_batch_max: int
    step_tokens_mean: float
    step_tokens_std: float
    dispersion: float
    imbalance_padded: float
    imbalance_quadratic: float
    dropped: int
    dropped_by_reason: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    split: int = 0
    repeated: int = 0
    world_size: int = 1
    accumulate: int = 1
    seed: int = 0
    epoch: int = 0

    def __str__(self) -> str:
        """Lay the figures out as a table, one a line."""
        rows = {each.name: _shown(each.name, getattr(self, each.name)) for each in fields(self)}
        left, right = (max(map(len, column)) for column in (rows, rows.values()))
        return "\n".join(f"{name:<{left}}  {figure:>{right}}" for name, figure in rows.items())


def _shown(name: str, figure: float | dict[str, int] | None) -> str:
    if figure is None or figure == {}:
        return "none"
    if isinstance(figure, dict):
        return ", ".join(f"{reason} {count:,}" for reason, count in figure.items())
    if name in {"efficiency", "fill", "gap"}:
        return percent(figure)
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.3f}"


def plan_stats(plan: Plan, lengths: IntoLengths) -> PlanStats:
    """Measure a plan."""
    checked = Lengths.of(lengths)
    original, columns = checked.array, plan.entry_lengths(checked)
    offsets, layout, origin = plan.offsets, plan.layout, plan.origin
    laid_out, entries = layout.batch_tokens(columns, offsets), layout.areas(columns)
    tokens = sums_of_batches(entries, offsets)
    update = origin.world_size * origin.accumulate
    steps = np.append(np.arange(0, len(plan), update), len(plan))
    step_tokens = np.add.reduceat(tokens.astype(np.float64), steps[:-1])
    num_tokens, padded_tokens = total_of(tokens), total_of(laid_out)
    bound, budget = layout.lower_bound(columns), layout.budget
    if layout.caps is not None and layout.area == "sum":  # no row takes more
        budget = sum(layout.caps)
    cut = 0
    pieces = 0
    if layout.max_length is not None:
        over = original > np.asarray(layout.max_length)
        long = int(np.count_nonzero(over if over.ndim == 1 else over.any(axis=1)))
        cut, pieces = (long, 0) if plan.starts is None else (0, long)
    num_samples = plan.indices.size
    if plan.starts is not None:
        num_samples = int(np.count_nonzero(plan.starts == 0))

    def imbalance(cost: Cost) -> float:
        costs = layout.batch_costs(columns, offsets, cost)
        return rank_imbalance(costs, origin.world_size, origin.accumulate)

    return PlanStats(
        num_samples=num_samples,
        num_batches=len(plan),
        num_steps=steps.size - 1,
        num_tokens=num_tokens,
        padded_tokens=padded_tokens,
        efficiency=num_tokens / padded_tokens,
        budget=budget,
        max_batch_tokens=int(laid_out.max()),
        fill=None if budget is None else float(laid_out.mean() / budget),
        lower_bound=bound,
        gap=len(plan) / bound - 1,
        shapes=count_distinct(*np.column_stack(layout.shapes_of(columns, offsets)).T),
        samples_per_batch_mean=float(plan.sizes.mean()),
        samples_per_batch_std=float(plan.sizes.std()),
        samples_per_batch_max=int(plan.sizes.max()),
        step_tokens_mean=float(step_tokens.mean()),
        step_tokens_std=float(step_tokens.std()),
        dispersion=dispersion(entries, offsets[steps]),
        imbalance_padded=imbalance("padded"),
        imbalance_quadratic=imbalance("quadratic"),
        dropped=sum(each.size for each in plan.dropped.values()),
        dropped_by_reason={reason: each.size for reason, each in plan.dropped.items()},
        truncated=cut,
        split=pieces,
        repeated=plan.indices.size - _distinct(plan),
        world_size=origin.world_size,
        accumulate=origin.accumulate,
        seed=origin.seed,
        epoch=origin.epoch,
    )


def dispersion(entries: IntArray, steps: IntArray) -> float:
    """Compare how unlike updates are with what random samples of as many tokens would give.

    The variance over updates of the token-weighted mean log-length, over the variance that the
    same mean has when the update's tokens come from samples drawn at random, without
    replacement. 1 is a plain shuffle (or there is nothing to compare), less is more even,
    length-sorted updates are in the hundreds. Outliers count as four times the 99th percentile:
    else one of them alone would decide the figure.

    Example:
        >>> dispersion(np.array([8, 2, 2, 8]), np.array([0, 2, 4]))
        0.0
        >>> dispersion(np.array([8, 8, 2, 2]), np.array([0, 2, 4])) > 1
        True
    """
    if steps.size <= 2 or entries.min() == entries.max():
        return 1.0
    tokens = without_outliers(entries).astype(np.float64)
    logs = np.log(tokens)
    step_tokens = np.add.reduceat(tokens, steps[:-1])
    means = np.add.reduceat(tokens * logs, steps[:-1]) / step_tokens
    total = tokens.sum()
    mean = float((means * step_tokens).sum() / total)
    # The ratio estimator's variance, with the correction for a finite population.
    spread = float((tokens**2 * (logs - mean) ** 2).sum()) / total
    expected = spread * (1 / step_tokens - 1 / total)
    return float(((means - mean) ** 2).sum() / expected.sum())


def count_distinct(*columns: IntArray) -> int:
    """Count the rows that differ, of columns of integers. O(n log n).

    `numpy.unique` hashes, and is many times slower on millions of integers.

    Example:
        >>> threes = np.array([3, 3, 3])
        >>> count_distinct(threes), count_distinct(threes, np.array([0, 1, 0]))
        (1, 2)
    """
    if not columns[0].size:
        return 0
    if len(columns) == 1:
        ordered = [np.sort(columns[0])]
    else:
        order = np.lexsort(columns)
        ordered = [column[order] for column in columns]
    is_new = np.logical_or.reduce([column[1:] != column[:-1] for column in ordered])
    return 1 + int(np.count_nonzero(is_new))


def _distinct(plan: Plan) -> int:
    """Count samples, or pieces of them, however often they come."""
    if plan.starts is None:
        return count_distinct(plan.indices)
    return count_distinct(plan.indices, plan.starts)
