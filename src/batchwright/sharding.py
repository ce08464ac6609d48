"""A plan, or what is left of one, shared among ranks in equal counts."""

import warnings

import numpy as np

from batchwright._checks import whole_number
from batchwright.batches import Arrays, Batches
from batchwright.batching.cut import offsets_of, ranges
from batchwright.errors import PlanError
from batchwright.plans import Plan, replaced
from batchwright.typing import IntArray, Last
from batchwright.updates import num_batches as choose_num_batches


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
    return replaced(plan, batches=plan.batches.split_to(target))


def share(
    rest: Plan, world_size: int, accumulate: int, epoch: int, *, last: Last, warn: bool = True
) -> Plan | None:
    """Make what is left of an epoch fill whole updates, by splitting batches.

    Returns:
        A plan whose number of batches is a multiple of `world_size`, no batch larger than it was;
        repeated samples are listed in `repeated`, those left out in ``dropped["last"]``. None:
        ``"drop"`` leaves out all.

    Example:
        >>> three = Plan(np.arange(3), np.array([0, 2, 3]))
        >>> len(share(three, 2, 1, 0, last="short")), len(share(three, 3, 2, 0, last="short"))
        (2, 3)
        >>> len(share(three, 2, 1, 0, last="drop")), share(three, 2, 2, 0, last="drop")
        (2, None)
    """
    update = world_size * accumulate
    samples = _parts(rest.batches, len(rest) + update)  # it suffices that there are more
    if last == "drop" and samples < update:
        return None
    count = choose_num_batches(
        len(rest), samples, world_size=world_size, accumulate=accumulate, last=last
    )
    if count < len(rest):
        gone = rest[count:].indices
        left_out = {"last": np.concatenate((rest.dropped.get("last", gone[:0]), gone))}
        return replaced(rest[:count], dropped={**rest.dropped, **left_out})
    short = count - samples
    if short > 0:
        arrays = rest.batches.arrays()
        units = arrays.units()
        parts = np.resize(np.arange(samples), short)
        sizes = np.diff(units)[parts]
        again = ranges(units[parts], sizes)
        if last == "short" and warn:
            warn_of_repeats(arrays.indices[again], samples, world_size, epoch)
        batches = arrays.of_entries(
            np.concatenate((np.arange(arrays.indices.size), again)),
            np.concatenate((arrays.offsets, arrays.offsets[-1] + offsets_of(sizes)[1:])),
        )
        repeated = np.concatenate((rest.repeated, arrays.indices[again]))
        rest = replaced(rest, batches=batches, repeated=repeated)
    return equalize(rest, num_batches=count)


def _parts(batches: Batches, most: int) -> int:
    """Count what batches can be split into: groups that stay together, or samples."""
    if isinstance(batches, Arrays) and batches.groups is not None:
        return batches.units().size - 1
    return batches.count(most)


def warn_of_repeats(repeated: IntArray, samples: int, world_size: int, epoch: int) -> None:
    """Warn that samples are repeated, so that every rank has a batch."""
    shown = ", ".join(map(str, repeated[:10].tolist())) + (", …" if repeated.size > 10 else "")
    warnings.warn(
        f"{samples} samples are left of epoch {epoch}, for {world_size} ranks that each need a "
        f"batch: {repeated.size} come twice ({shown}). "
        'With last="drop" samples are left out instead; last="repeat" says that this is wanted.',
        stacklevel=3,
    )
