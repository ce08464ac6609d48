"""What is left of an epoch or a stream, shared by ranks in equal counts."""

from __future__ import annotations

import warnings

from batchwright.errors import PlanError
from batchwright.plans import Plan
from batchwright.sharding import for_ranks
from batchwright.typing import IntArray, Last


def share(
    rest: Plan, world_size: int, accumulate: int, epoch: int, *, last: Last, warn: bool = True
) -> Plan | None:
    """Share batches among ranks by `for_ranks`; nothing may be left of them.

    Args:
        rest: The batches.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        epoch: The epoch that they are of, for the warning.
        last: What becomes of samples that fill no whole update.
        warn: Whether to warn where ``"short"`` has to repeat samples.

    Returns:
        The batches, of the same samples in the same sequence but for what the policy did. None: it
        left out all.

    Example:
        >>> import numpy as np
        >>> three = Plan(np.arange(3), np.array([0, 2, 3]))
        >>> len(share(three, 2, 1, 0, last="short")), len(share(three, 3, 2, 0, last="short"))
        (2, 3)
        >>> len(share(three, 2, 1, 0, last="drop")), share(three, 2, 2, 0, last="drop")
        (2, None)
    """
    try:
        shared = for_ranks(rest, world_size, accumulate, last=last)
    except PlanError:
        if last != "drop":
            raise
        return None
    again = shared.repeated[rest.repeated.size :]
    if again.size and last == "short" and warn:
        warn_of_repeats(again, rest.indices.size, world_size, epoch)
    return shared


def warn_of_repeats(repeated: IntArray, samples: int, world_size: int, epoch: int) -> None:
    """Warn that samples come twice, so that every rank has a batch.

    Args:
        repeated: int64[r], the samples.
        samples: How many are left in all.
        world_size: Ranks.
        epoch: The epoch.
    """
    shown = ", ".join(map(str, repeated[:10].tolist())) + (", …" if repeated.size > 10 else "")
    warnings.warn(
        f"{samples} samples are left of epoch {epoch}, for {world_size} ranks that each need a "
        f"batch: {repeated.size} come twice ({shown}). "
        'With last="drop" samples are left out instead; last="repeat" says that this is wanted.',
        stacklevel=3,
    )
