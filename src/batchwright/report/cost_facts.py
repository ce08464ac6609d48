"""What each step costs each rank, as plain values, few enough for a page."""

from typing import Any

import numpy as np

from batchwright.plans import Plan
from batchwright.typing import FloatArray, IntoLengths
from batchwright.updates import rank_imbalance

POINTS = 120
"""Points of the curve at most; of more steps, several share one."""

RANKS = 16
"""Ranks that are listed at most."""


def step_costs(plan: Plan, lengths: IntoLengths) -> dict[str, Any]:
    """Gather what steps cost, in padded tokens of a rank.

    Args:
        plan: The plan.
        lengths: integer[n] or [n, k], the lengths it was made for.

    Returns:
        `world_size`, `accumulate`, `num_steps`; `least`, `mean` and `most` of a rank in a step;
        `slowest_over_mean` (`imbalance_padded` of `PlanStats`) and `waiting`, the share of all
        ranks' time that goes into waiting for it, if time follows cost; `per_rank`, what the epoch
        costs each (None: more than `RANKS`); and `curve`: the first `step` of each point, with the
        `mean`, `least` and `most` over the ranks and its `steps_a_point` steps. JSON as it stands.
        O(m).

    Raises:
        PlanMismatchError: If the plan was made for other lengths.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([5, 5, 5, 5], batching=bw.FixedSize(1), world_size=2)
        >>> costs = step_costs(plan, [5, 5, 5, 5])
        >>> costs["num_steps"], costs["mean"], costs["per_rank"], costs["slowest_over_mean"]
        (2, 5.0, [10, 10], 1.0)
    """
    origin = plan.origin
    costs = plan.layout.batch_costs(plan.entry_lengths(lengths), plan.offsets, "padded")
    of_ranks = _of_ranks(costs, origin.world_size, origin.accumulate)
    slowest = rank_imbalance(costs, origin.world_size, origin.accumulate)
    mean, most = of_ranks.sum(axis=1) / origin.world_size, of_ranks.max(axis=1)
    least = of_ranks.min(axis=1) * (origin.world_size <= of_ranks.shape[1])
    together = -(-len(of_ranks) // POINTS)
    first = np.arange(0, len(of_ranks), together)
    # Points of as many steps each, the last perhaps of fewer.
    steps = np.diff(np.append(first, len(of_ranks)))
    return {
        "world_size": origin.world_size,
        "accumulate": origin.accumulate,
        "num_steps": len(of_ranks),
        "least": int(least.min()),
        "mean": float(mean.mean()),
        "most": int(most.max()),
        "slowest_over_mean": slowest,
        "waiting": 1 - 1 / slowest,
        "per_rank": _per_rank(of_ranks, origin.world_size),
        "steps_a_point": together,
        "curve": {
            "step": first.tolist(),
            "mean": (np.add.reduceat(mean, first) / steps).tolist(),
            "least": np.minimum.reduceat(least, first).astype(np.int64).tolist(),
            "most": np.maximum.reduceat(most, first).astype(np.int64).tolist(),
        },
    }


def _per_rank(of_ranks: FloatArray, world_size: int) -> list[int] | None:
    if world_size > RANKS:
        return None
    idle = [0] * (world_size - of_ranks.shape[1])
    return [*of_ranks.sum(axis=0).astype(np.int64).tolist(), *idle]


def _of_ranks(costs: FloatArray, world_size: int, accumulate: int) -> FloatArray:
    """Sum the costs of batches, float64[b], for each step and rank that has any.

    Returns:
        float64[steps, ranks]; of more ranks than batches, the others have none.
    """
    batch = np.arange(costs.size)
    # An update is a multiple of the world, so a batch's place in the plan names its rank.
    step, rank = batch // (world_size * accumulate), batch % world_size
    num_steps, num_ranks = int(step[-1]) + 1, min(world_size, costs.size)
    sums = np.bincount(step * num_ranks + rank, costs, minlength=num_steps * num_ranks)
    return np.asarray(sums, dtype=np.float64).reshape(num_steps, num_ranks)
