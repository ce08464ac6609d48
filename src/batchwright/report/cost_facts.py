"""What each step costs each rank, as plain values, few enough for a page."""

from typing import Any

import numpy as np

from batchwright.dealing import rank_imbalance
from batchwright.plans import Plan
from batchwright.typing import FloatArray, IntoLengths

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
    together = -(-len(of_ranks) // POINTS)
    first = np.arange(0, len(of_ranks), together)
    # Points of as many steps each, the last perhaps of fewer.
    steps = np.diff(np.append(first, len(of_ranks)))
    return {
        "world_size": origin.world_size,
        "accumulate": origin.accumulate,
        "num_steps": len(of_ranks),
        "least": int(of_ranks.min()),
        "mean": float(of_ranks.mean()),
        "most": int(of_ranks.max()),
        "slowest_over_mean": slowest,
        "waiting": 1 - 1 / slowest,
        "per_rank": of_ranks.sum(axis=0).astype(np.int64).tolist()
        if origin.world_size <= RANKS
        else None,
        "steps_a_point": together,
        "curve": {
            "step": first.tolist(),
            "mean": (np.add.reduceat(of_ranks.mean(axis=1), first) / steps).tolist(),
            "least": np.minimum.reduceat(of_ranks.min(axis=1), first).astype(np.int64).tolist(),
            "most": np.maximum.reduceat(of_ranks.max(axis=1), first).astype(np.int64).tolist(),
        },
    }


def _of_ranks(costs: FloatArray, world_size: int, accumulate: int) -> FloatArray:
    """Sum the costs of batches, float64[b], for each step and rank: float64[steps, world_size]."""
    batch = np.arange(costs.size)
    # An update is a multiple of the world, so a batch's place in the plan names its rank.
    step, rank = batch // (world_size * accumulate), batch % world_size
    num_steps = int(step[-1]) + 1
    sums = np.bincount(step * world_size + rank, costs, minlength=num_steps * world_size)
    return np.asarray(sums, dtype=np.float64).reshape(num_steps, world_size)
