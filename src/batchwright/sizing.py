"""How large batches and updates are, from what the user gave of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchwright._checks import whole_number
from batchwright.batching import TokenBudget
from batchwright.batching.custom import BatchingFunction, as_batching
from batchwright.budgets import suggest
from batchwright.epochs import Counted, Epochs
from batchwright.errors import BudgetError
from batchwright.functions import Functions
from batchwright.lengths import as_lengths
from batchwright.oversize import fit_items
from batchwright.typing import Batching, IntArray, IntoLengths, Last
from batchwright.updates import num_batches


def sized(
    lengths: IntoLengths,
    *,
    max_tokens: int | None,
    batching: Batching | BatchingFunction | None,
    batch_size: int | None,
    step_tokens: int | None,
    world_size: int,
    accumulate: int | None,
    together: IntArray | None = None,
) -> tuple[Batching, int | None]:
    """Return the batching, and the tokens of an update; see `Planner`.

    A budget that is made of the batch size also holds the samples of each group of `together`,
    int64[n], numbers from 0.

    Raises:
        BudgetError: If settings are missing, or contradict one another.

    Example:
        >>> sized([4, 6], max_tokens=None, batching=None, batch_size=1, step_tokens=None,
        ...       world_size=2, accumulate=None)[1]
        10
    """
    if max_tokens is not None and batching is not None:
        raise BudgetError(
            "give either max_tokens or batching, got both. For example, "
            "Planner(lengths, max_tokens=16_384)."
        )
    if step_tokens is not None:
        step_tokens = whole_number(None, "step_tokens", step_tokens)
        if accumulate is not None:
            raise BudgetError(
                "accumulate and step_tokens both say how large an update is. Give one."
            )
    if max_tokens is None and batching is None and batch_size is not None:
        max_tokens = suggest(lengths, batch_size=batch_size).for_all
        if together is not None:
            max_tokens = max(max_tokens, _largest_group(lengths, together))
    if max_tokens is not None:
        batching = TokenBudget(max_tokens)
    if batching is None:
        raise BudgetError(
            "give max_tokens, batching, or the batch_size of today, got none of them. For example, "
            "Planner(lengths, max_tokens=16_384) or Planner(lengths, batch_size=32)."
        )
    batching = as_batching(batching)
    if batch_size is not None and step_tokens is None:
        budgets = suggest(_kept(lengths, batching), batch_size=batch_size)
        ranks = whole_number(None, "world_size", world_size)
        slots = whole_number(None, "accumulate", 1 if accumulate is None else accumulate)
        step_tokens = budgets.tokens_of(ranks * slots)
    return batching, step_tokens


class SizedEpoch(NamedTuple):
    """How many batches a rank accumulates, how many an epoch has, and what epochs need."""

    accumulate: int
    num_batches: int
    counted: Counted


def sized_epoch(
    source: Functions | Epochs,
    world_size: int,
    accumulate: int | None,
    *,
    step_tokens: int | None,
    last: Last,
) -> SizedEpoch:
    """Choose how many batches each rank accumulates, and how many all epochs have.

    Where `accumulate` and `step_tokens` are given, as for another number of ranks, an epoch keeps
    the updates that `step_tokens` makes of it, if its batches fit into them.
    """
    wanted = 0 if step_tokens is None else round(source.tokens(0) / step_tokens)
    updates: int | None = None
    if accumulate is None and step_tokens is not None:
        accumulate, updates, counted = _accumulated(source, world_size, wanted)
    else:
        accumulate = whole_number(None, "accumulate", 1 if accumulate is None else accumulate)
        update = world_size * accumulate
        counted = source.count(update, wanted * update)
        if step_tokens is not None:
            updates = _as_many(wanted, counted.samples // update)
            updates = None if counted.batches > updates * update else updates
    many = num_batches(
        *counted, world_size=world_size, accumulate=accumulate, last=last, updates=updates
    )
    return SizedEpoch(accumulate, many, counted)


def _accumulated(
    source: Functions | Epochs, world_size: int, wanted: int
) -> tuple[int, int, Counted]:
    """Find how many batches a rank accumulates, and how many updates make an epoch."""
    least = wanted * world_size
    counted = source.count(world_size, least)
    updates = _as_many(wanted, counted.samples // world_size)
    ranks = updates * world_size
    accumulate = -(-counted.batches // ranks)
    # Smaller windows of mixing need more batches: count again for the update now known.
    counted = source.count(world_size * accumulate, least)
    found = -(-counted.batches // ranks)
    while found != accumulate:  # windows of another update may need more again
        accumulate, counted = found, source.count(world_size * found, least)
        found = max(found, -(-counted.batches // ranks))
    fewer, update = world_size * (accumulate - 1), world_size * accumulate
    if not fewer or updates * update <= counted.samples:
        return accumulate, updates, counted
    # Batches of one sample cannot be split further. Of 1,000 of them, 333 updates of 3 leave
    # one over, and of 4 there are only 250: the nearer number of updates is taken.
    other = source.count(fewer, least)
    found, more = -(-counted.batches // update), -(-other.batches // fewer)
    if more - updates < updates - found:
        return accumulate - 1, more, other
    return accumulate, updates, counted


def _as_many(updates: int, most: int) -> int:
    """Return as many updates as are wanted; at most as many as samples fill."""
    return max(1, min(most, updates))


def _largest_group(lengths: IntoLengths, together: IntArray) -> int:
    """Return the tokens of the largest group that stays together, padding included."""
    array = as_lengths(lengths, columns=True)
    if len(array) != len(together):
        return 0  # which is refused elsewhere
    longest = np.zeros((int(together.max()) + 1, *array.shape[1:]), dtype=np.int64)
    np.maximum.at(longest, together, array)
    rows = longest if array.ndim == 1 else longest.sum(axis=1)
    return int((rows * np.bincount(together)).max())


def _kept(lengths: IntoLengths, batching: Batching) -> IntoLengths:
    """Return the lengths of what is trained on, once long samples were dropped or cut."""
    if batching.oversize not in {"drop", "truncate"}:
        return lengths
    items = fit_items(as_lengths(lengths, columns=True), batching.layout, batching.oversize)
    return np.delete(items.lengths, items.dropped, axis=0)
