"""A plan, or what is left of one, shared among ranks in equal counts."""

import warnings

import numpy as np

from batchwright._checks import whole_number
from batchwright.batches import Arrays
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
    samples = rest.batches.count(len(rest) + update)  # it suffices that there are more
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
        again = np.resize(np.arange(samples), short)
        if last == "short" and warn:
            warn_of_repeats(rest.indices[again], samples, world_size, epoch)
        starts = rest.starts
        arrays = Arrays(
            np.concatenate((rest.indices, rest.indices[again])),
            np.concatenate((rest.offsets, rest.offsets[-1] + 1 + np.arange(short))),
            None if starts is None else np.concatenate((starts, starts[again])),
        )
        repeated = np.concatenate((rest.repeated, rest.indices[again]))
        rest = replaced(rest, batches=arrays, repeated=repeated)
    return equalize(rest, num_batches=count)


def warn_of_repeats(repeated: IntArray, samples: int, world_size: int, epoch: int) -> None:
    """Warn that samples are repeated, so that every rank has a batch."""
    shown = ", ".join(map(str, repeated[:10].tolist())) + (", …" if repeated.size > 10 else "")
    warnings.warn(
        f"{samples} samples are left of epoch {epoch}, for {world_size} ranks that each need a "
        f"batch: {repeated.size} come twice ({shown}). "
        'With last="drop" samples are left out instead; last="repeat" says that this is wanted.',
        stacklevel=3,
    )
