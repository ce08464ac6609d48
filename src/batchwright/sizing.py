"""How large batches and updates are, from what the user gave of it."""

from __future__ import annotations

import numpy as np

from batchwright._checks import whole_number
from batchwright.batching import TokenBudget
from batchwright.batching.custom import BatchingFunction, as_batching
from batchwright.budgets import suggest
from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.oversize import fit_items
from batchwright.typing import Batching, IntArray, IntoLengths


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
