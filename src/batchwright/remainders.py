"""A plan, or what is left of one, shared by ranks in equal counts."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal, TypeAlias

import numpy as np

from batchwright.plans import Plan
from batchwright.sharding import equalize
from batchwright.typing import IntArray

Last: TypeAlias = Literal["short", "drop", "repeat"]
"""What becomes of batches of one sample that updates or ranks cannot share equally."""

LAST: tuple[Last, ...] = ("short", "drop", "repeat")


def share(
    rest: Plan,
    world_size: int,
    accumulate: int,
    epoch: int,
    *,
    last: Last = "short",
    warn: bool = True,
) -> Plan | None:
    """Split the batches of a plan so that all ranks get the same number of whole updates.

    Where there are too few samples for that, `last` decides: ``"short"`` makes the last update a
    short one, and where not even every rank gets a batch, repeats samples, with a warning;
    ``"repeat"`` repeats samples until the update is whole; ``"drop"`` leaves samples out, listed
    in ``dropped["last"]``.

    Args:
        rest: The batches.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        epoch: The epoch that they are of, for the warning.
        last: The policy.
        warn: Whether to warn where ``"short"`` has to repeat samples.

    Returns:
        The same samples in the same sequence, but for what the policy did; no batch is larger than
        it was. None: nothing is left.

    Example:
        >>> three = Plan(np.arange(3), np.array([0, 2, 3]))
        >>> len(share(three, 2, 1, 0)), len(share(three, 3, 2, 0))
        (2, 3)
        >>> len(share(three, 2, 1, 0, last="drop")), len(share(three, 3, 2, 0, last="repeat"))
        (2, 6)
    """
    update, samples = world_size * accumulate, rest.indices.size
    for multiple in (update, world_size) if last == "short" else (update,):
        if -(-len(rest) // multiple) * multiple <= samples:
            return equalize(rest, multiple_of=multiple)
    multiple = world_size if last == "short" else update
    if last == "drop":
        return _without_last(rest, samples // multiple * multiple)
    missing = -(-len(rest) // multiple) * multiple - samples
    again = np.arange(missing) % samples
    if last == "short" and warn:
        warn_of_repeats(rest.indices[again], samples, world_size, epoch)
    return _singles(rest, np.concatenate((np.arange(samples), again)))


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


def _without_last(rest: Plan, kept: int) -> Plan | None:
    if not kept:
        return None
    gone = np.concatenate((rest.dropped.get("last", rest.indices[:0]), rest.indices[kept:]))
    singles = _singles(rest, np.arange(kept))
    return dataclasses.replace(singles, dropped={**rest.dropped, "last": gone})


def _singles(rest: Plan, entries: IntArray) -> Plan:
    """Return a plan of some of the entries, each a batch."""
    return dataclasses.replace(
        rest,
        indices=rest.indices[entries],
        offsets=np.arange(entries.size + 1),
        starts=None if rest.starts is None else rest.starts[entries],
    )
