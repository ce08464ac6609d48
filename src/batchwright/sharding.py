"""Equal counts for every rank: by splitting batches, and by a named policy where that ends."""

import dataclasses

import numpy as np

from batchwright.checks import check_choice, whole_number
from batchwright.errors import PlanError
from batchwright.plans import Plan
from batchwright.typing import FloatArray, IntArray, Last

_MOST_REPEATED = 1_000_000
"""Samples may come twice so often, or as often as there are samples, whichever is more."""


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
    if not isinstance(plan, Plan):
        raise PlanError(f"equalize({plan!r:.60}): expected a Plan.")
    multiple_of = whole_number("equalize", "multiple_of", multiple_of, error=PlanError)
    if num_batches is not None:
        num_batches = whole_number("equalize", "num_batches", num_batches, error=PlanError)
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


def num_batches(
    needed: int,
    samples: int,
    *,
    world_size: int,
    accumulate: int,
    last: Last,
    updates: int | None = None,
) -> int:
    """Choose how many batches an epoch has: whole updates where samples suffice for them.

    Args:
        needed: Batches that hold the samples within the budget.
        samples: How many samples there are: no batch is empty.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        last: What becomes of a last update that samples cannot fill; see `Planner`.
        updates: Aim at this many, if so many hold the samples. None: as few as hold them.

    Returns:
        A multiple of ``world_size * accumulate``; or under ``"short"`` of `world_size`. More than
        `samples` where some have to come twice.

    Raises:
        PlanError: If no update would remain under ``"drop"``, or far more samples than there are
            would have to come again.

    Example:
        >>> [num_batches(9, 9, world_size=2, accumulate=4, last=each)
        ...  for each in ("short", "drop", "repeat")]
        [10, 8, 16]
    """
    update = world_size * accumulate
    whole = -(-needed // update) * update if updates is None else updates * update
    if whole <= samples:
        return whole
    if last != "drop":
        count = whole if last == "repeat" else -(-needed // world_size) * world_size
        if count - samples > max(samples, _MOST_REPEATED):
            raise PlanError(
                f"{samples} samples cannot fill {count} batches, world_size={world_size} × "
                f"accumulate={accumulate} under last={last!r}: the same ones would come over and "
                "over. Use fewer ranks, or accumulate less."
            )
        return count
    if samples < update:
        raise PlanError(
            f"{samples} samples cannot fill one update of {update} batches, world_size="
            f'{world_size} × accumulate={accumulate}: with last="drop" none would remain. Use '
            'last="short" or "repeat", fewer ranks, or accumulate less.'
        )
    return samples // update * update


def for_ranks(plan: Plan, world_size: int, accumulate: int, *, last: Last = "short") -> Plan:
    """Share a plan that is given, or what is left of one, among ranks in equal counts.

    Batches are split until they fill whole updates. Where there are too few samples for that,
    `last` decides, as in a `Planner`.

    Args:
        plan: The plan.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        last: ``"short"``: fewer batches in the last update, and if need be the first samples once
            more; ``"drop"``: the last batches are left out; ``"repeat"``: the last update is
            filled with the first samples once more.

    Returns:
        A plan whose number of batches is a multiple of `world_size`, no batch larger than it was;
        samples that come twice are listed in `repeated`, those left out in ``dropped["last"]``.

    Raises:
        PlanError: If no update would remain under ``"drop"``.

    Example:
        >>> plan = for_ranks(Plan(np.arange(3), np.array([0, 3])), 4, 1)
        >>> [batch.tolist() for batch in plan], plan.repeated.tolist()
        ([[0], [1], [2], [0]], [0])
    """
    world_size = whole_number("for_ranks", "world_size", world_size)
    accumulate = whole_number("for_ranks", "accumulate", accumulate)
    check_choice("for_ranks", "last", last, ("short", "drop", "repeat"))
    count = num_batches(
        len(plan), plan.indices.size, world_size=world_size, accumulate=accumulate, last=last
    )
    if count < len(plan):
        gone = plan.indices[plan.offsets[count] :]
        left_out = {"last": np.concatenate((plan.dropped.get("last", gone[:0]), gone))}
        return dataclasses.replace(plan[:count], dropped={**plan.dropped, **left_out})
    short = count - plan.indices.size
    if short > 0:
        again = np.resize(np.arange(plan.indices.size), short)
        starts = plan.starts
        plan = dataclasses.replace(
            plan,
            indices=np.concatenate((plan.indices, plan.indices[again])),
            offsets=np.concatenate((plan.offsets, plan.offsets[-1] + 1 + np.arange(short))),
            starts=None if starts is None else np.concatenate((starts, starts[again])),
            repeated=np.concatenate((plan.repeated, plan.indices[again])),
        )
    return equalize(plan, num_batches=count)


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
            f"{int(offsets[-1])} samples cannot fill {num_batches} batches: none may be empty."
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
