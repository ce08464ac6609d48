"""What each step costs each rank, in few enough figures for a page."""

from dataclasses import dataclass

import numpy as np

from batchwright.plans import Plan
from batchwright.typing import FloatArray, IntoLengths
from batchwright.updates import rank_imbalance

POINTS = 120
"""The most points of the curve; of more steps, several share a point."""

RANKS = 16
"""The most ranks that are listed."""


@dataclass(frozen=True)
class CostCurve:
    """Costs of a rank over an epoch, a point for each step or several."""

    step: tuple[int, ...]  # the first step of each point
    mean: tuple[float, ...]  # over the ranks and the steps of the point
    least: tuple[int, ...]  # of them
    most: tuple[int, ...]  # of them


@dataclass(frozen=True)
class StepCosts:
    """What steps cost, in padded tokens of a rank; the fields are the ``--json`` keys."""

    world_size: int
    accumulate: int
    num_steps: int
    least: int  # of a rank in a step
    mean: float
    most: int
    slowest_over_mean: float  # `PlanStats.imbalance_padded`
    waiting: float  # share of all ranks' time that is spent waiting, if time follows tokens
    per_rank: tuple[int, ...] | None  # of the epoch; None: more than `RANKS`
    steps_a_point: int  # of the curve
    curve: CostCurve


def step_costs(plan: Plan, lengths: IntoLengths) -> StepCosts:
    """Sum up what steps cost each rank. O(m).

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([5, 5, 5, 5], batching=bw.FixedSize(1), world_size=2)
        >>> costs = step_costs(plan, [5, 5, 5, 5])
        >>> costs.num_steps, costs.mean, costs.per_rank, costs.slowest_over_mean
        (2, 5.0, (10, 10), 1.0)
    """
    world_size, accumulate = plan.origin.world_size, plan.origin.accumulate
    costs = plan.layout.batch_costs(plan.entry_lengths(lengths), plan.offsets, "padded")
    of_ranks = _of_ranks(costs, world_size, accumulate)
    slowest = rank_imbalance(costs, world_size, accumulate)
    mean, most = of_ranks.sum(axis=1) / world_size, of_ranks.max(axis=1)
    idle = world_size - of_ranks.shape[1]
    least = of_ranks.min(axis=1) * (idle == 0)
    together = -(-len(of_ranks) // POINTS)
    first = np.arange(0, len(of_ranks), together)
    steps = np.diff(np.append(first, len(of_ranks)))  # the last point may have fewer
    per_rank = None
    if world_size <= RANKS:
        per_rank = (*of_ranks.sum(axis=0).astype(np.int64).tolist(), *[0] * idle)
    return StepCosts(
        world_size=world_size,
        accumulate=accumulate,
        num_steps=len(of_ranks),
        least=int(least.min()),
        mean=float(mean.mean()),
        most=int(most.max()),
        slowest_over_mean=slowest,
        waiting=1 - 1 / slowest,
        per_rank=per_rank,
        steps_a_point=together,
        curve=CostCurve(
            step=tuple(first.tolist()),
            mean=tuple((np.add.reduceat(mean, first) / steps).tolist()),
            least=tuple(np.minimum.reduceat(least, first).astype(np.int64).tolist()),
            most=tuple(np.maximum.reduceat(most, first).astype(np.int64).tolist()),
        ),
    )


def _of_ranks(costs: FloatArray, world_size: int, accumulate: int) -> FloatArray:
    """Sum the costs of batches for each step and rank: float64[steps, ranks that have batches]."""
    batch = np.arange(costs.size)
    # An update is a multiple of the world, so a batch's place in the plan names its rank.
    step, rank = batch // (world_size * accumulate), batch % world_size
    num_steps, num_ranks = int(step[-1]) + 1, min(world_size, costs.size)
    sums = np.bincount(step * num_ranks + rank, costs, minlength=num_steps * num_ranks)
    return np.asarray(sums, dtype=np.float64).reshape(num_steps, num_ranks)
