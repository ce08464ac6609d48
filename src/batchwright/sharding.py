"""Equal counts for every rank, by splitting batches: never by dropping or repeating samples."""

import dataclasses

import numpy as np

from batchwright.errors import PlanError
from batchwright.plans import Plan
from batchwright.typing import FloatArray, IntArray


def equalize(plan: Plan, *, multiple_of: int = 1, num_batches: int | None = None) -> Plan:
    """Split batches until their number is a multiple, or exactly a given number.

    Guarantees the same samples in the same sequence, and no batch larger than it was. The
    batches with the most samples are split first.

    Args:
        plan: The plan.
        multiple_of: ``world_size * accumulate``, say.
        num_batches: The exact number wanted, a multiple of `multiple_of`. None: the next one.

    Returns:
        A plan with at least as many batches. O(b log b).

    Raises:
        PlanError: If there are too few samples, or too many batches, for that.

    Example:
        >>> plan = Plan(np.arange(5), np.array([0, 4, 5]))
        >>> [batch.tolist() for batch in equalize(plan, multiple_of=3)]
        [[0, 1], [2, 3], [4]]
    """
    target = -(-len(plan) // multiple_of) * multiple_of if num_batches is None else num_batches
    if target % multiple_of:
        raise PlanError(f"num_batches={target} is not a multiple of {multiple_of}.")
    if target < len(plan):
        raise PlanError(
            f"a plan of {len(plan)} batches cannot become one of {target} by splitting."
        )
    if target == len(plan):
        return plan
    return dataclasses.replace(plan, offsets=split_offsets(plan.offsets, target))


def split_offsets(
    offsets: IntArray, num_batches: int, *, weights: FloatArray | None = None
) -> IntArray:
    """Split batches in two, the heaviest first, until there are `num_batches`.

    Args:
        offsets: int64[b + 1], where batches begin and end.
        num_batches: How many to end with, at least b.
        weights: float64[b], what makes a batch heavy; None goes by its samples. Halves weigh
            half.

    Returns:
        int64[num_batches + 1], with every offset of `offsets` in it. O(b log b) a round, and
        as many rounds as a batch must be halved.

    Raises:
        PlanError: If there are fewer samples than batches asked for.

    Example:
        >>> split_offsets(np.array([0, 4, 5]), 4)
        array([0, 1, 2, 4, 5])
    """
    if num_batches > offsets[-1]:
        raise PlanError(
            f"{int(offsets[-1])} samples cannot fill {num_batches} batches. Use fewer ranks, "
            "accumulate less, or raise step_tokens."
        )
    heavy = np.diff(offsets).astype(np.float64) if weights is None else weights.copy()
    while offsets.size - 1 < num_batches:
        sizes = np.diff(offsets)
        chosen = _heaviest(np.where(sizes > 1, heavy, 0.0), num_batches - sizes.size)
        middles = offsets[chosen] + (sizes[chosen] >> 1)
        heavy[chosen] /= 2
        offsets = np.insert(offsets, chosen + 1, middles)
        heavy = np.insert(heavy, chosen + 1, heavy[chosen])
    return offsets


def _heaviest(weights: FloatArray, count: int) -> IntArray:
    """Choose up to `count` of the positive weights; among equals, ones evenly spaced."""
    candidates = int(np.count_nonzero(weights))
    if count >= candidates:
        return np.flatnonzero(weights)
    threshold = np.partition(weights, weights.size - count)[weights.size - count]
    above, equal = np.flatnonzero(weights > threshold), np.flatnonzero(weights == threshold)
    missing = count - above.size
    spaced = equal[(np.arange(missing) * equal.size) // missing]
    return np.sort(np.concatenate((above, spaced)))
