"""One window of a stream: which batches to make of what is buffered, and which to emit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._random import random_bits, shuffled
from batchwright.batching import Draft, Request
from batchwright.order import Pools
from batchwright.plans import Plan
from batchwright.sharding import share
from batchwright.typing import Batching, IntArray, Last
from batchwright.updates import arranged

Draw: TypeAlias = Callable[[int], np.random.Generator]
"""Makes this window's generators: one for each purpose, by number."""


def plan_window(
    lengths: IntArray,
    batching: Batching,
    world_size: int,
    accumulate: int,
    *,
    overdue: npt.NDArray[np.bool_],
    draw: Draw,
) -> Plan:
    """Plan what is buffered, lengths int64[k] or [k, c], and choose half of the updates to emit.

    The whole buffer is cut into batches and arranged in updates as an epoch would be: each update
    is one random batch of every length stratum. A random half of the updates is emitted, those
    with overdue samples, bool[k], first. What stays is a fair sample of the buffer, and is planned
    again with what arrives next; the batch that took what was left over is among what stays.

    Returns a plan over the buffer's entries of whole updates, at least one. At least one entry for
    each batch of an update stays, so that the stream can end after it. Where the buffer is too
    small for that, batches are split. O(k log k).
    """
    update = world_size * accumulate
    asked, needed = _asked(lengths, batching, update, draw)

    def half(draft: Draft, whole: int, late: npt.NDArray[np.bool_]) -> Plan:
        places = _arranged(draft, whole, world_size, accumulate, draw)
        return Plan(draft.indices, draft.offsets).take(_half(places, late, update, draw))

    draft = batching.draft(replace(asked, num_batches=needed))
    late = np.logical_or.reduceat(overdue[draft.indices], draft.offsets[:-1])
    whole = len(draft)
    if draft.pools is not None and draft.pools.size == 2 and not late[-1]:
        whole -= 1  # the last batch of a sort took what was left over
    if whole >= update:
        plan = half(draft, whole, late)
        if len(lengths) - plan.indices.size >= update:
            return plan
    draft = batching.draft(replace(asked, rng=draw(1), num_batches=2 * update))
    draft = draft.split_to(max(2 * update, len(draft)))
    late = np.logical_or.reduceat(overdue[draft.indices], draft.offsets[:-1])
    return half(draft, len(draft), late)


def plan_rest(
    lengths: IntArray,
    batching: Batching,
    world_size: int,
    accumulate: int,
    *,
    last: Last,
    draw: Draw,
) -> Plan | None:
    """Plan all that is left when the stream has ended.

    Returns a plan of every entry, of whole updates, reached by making batches smaller. Where there
    are too few entries for that, `last` decides; None if it leaves nothing. O(k log k).
    """
    update = world_size * accumulate
    asked, needed = _asked(lengths, batching, update, draw)
    for multiple in (update, world_size) if last == "short" else (update,):
        target = min(-(-needed // multiple) * multiple, len(lengths))
        draft = batching.draft(replace(asked, rng=draw(1), num_batches=target))
        target = -(-len(draft) // multiple) * multiple
        if target <= len(lengths):
            draft = draft.split_to(target)
            places = _arranged(draft, target, world_size, accumulate, draw)
            return Plan(draft.indices, draft.offsets).take(places)
    singles = Plan(shuffled(asked.pools.members, draw(2)), np.arange(len(lengths) + 1))
    return share(singles, world_size, accumulate, 0, last=last, warn=False)


def _asked(lengths: IntArray, batching: Batching, update: int, draw: Draw) -> tuple[Request, int]:
    """Return the request for a draft of the buffer, and how many batches it needs."""
    asked = Request(Pools.one(np.arange(len(lengths))), lengths, draw(0), update)
    needed = batching.count(asked)
    return replace(asked, rng=draw(1)), needed


def _half(places: IntArray, late: npt.NDArray[np.bool_], update: int, draw: Draw) -> IntArray:
    """Choose half of the updates that arranged batches make, those with late ones first."""
    num_updates = places.size // update
    body, tail = places[: num_updates * update], places[num_updates * update :]
    late_tail = tail[late[tail]]
    body[np.flatnonzero(~late[body])[: late_tail.size]] = late_tail[: np.count_nonzero(~late[body])]
    updates = body.reshape(num_updates, update)
    is_late = late[updates].any(axis=1)
    emitted = max(1, num_updates // 2, min(int(is_late.sum()), num_updates - 1))
    ranked = np.lexsort((random_bits(draw(3), num_updates), ~is_late))
    return updates[np.sort(ranked[:emitted])].ravel()


def _arranged(draft: Draft, count: int, world_size: int, accumulate: int, draw: Draw) -> IntArray:
    """Arrange the first `count` batches in updates."""
    return arranged(
        count,
        None if draft.pools is None else np.minimum(draft.pools, count),
        keys=None if draft.keys is None else draft.keys[:count],
        costs=None,
        world_size=world_size,
        accumulate=accumulate,
        rng=draw(2),
    )
