"""Batchings of the user's own: any function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from batchwright.batching.draft import Batching, Draft, Oversize
from batchwright.batching.fixed_size import one_pool
from batchwright.batching.probing import probed_count
from batchwright.checks import takes
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Layout
from batchwright.order import Pools
from batchwright.plans import Plan
from batchwright.typing import IntArray, LengthArray

BatchingFunction: TypeAlias = Callable[[IntArray, LengthArray, "np.random.Generator"], Plan]
"""``(order, lengths, rng) → Plan``: order int64[m], lengths integer[n]."""


@dataclass(frozen=True)
class Custom:
    """Let a function of the user's make the batches.

    Args:
        function: ``(order, lengths, rng) → Plan``. It may use `rng`, and must use every sample
            of `order` exactly as often as it is there.

    Raises:
        PlanError: When planning, if the function returns no plan, or other samples.

    Example:
        >>> import batchwright as bw
        >>> def pairs(order, lengths, rng):
        ...     return bw.Plan(order, np.append(np.arange(0, order.size, 2), order.size))
        >>> len(bw.plan([3, 5, 2], batching=pairs))
        2
    """

    function: BatchingFunction

    @property
    def layout(self) -> Layout:
        """Padded rows without a budget, unless the function's plans say otherwise."""
        return Layout()

    @property
    def oversize(self) -> Oversize:
        """There is no budget to exceed."""
        return "error"

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
    ) -> int:
        """Return how many batches a few draws need; see `Batching.count`."""
        return probed_count(
            lambda: self.draft(pools, lengths, rng=rng, multiple=multiple, num_batches=0),
            is_random=True,
        )

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Call the function and check what it returns. O(m log m)."""
        order = pools.sequence(rng)
        plan = self.function(order, lengths, rng)
        if not isinstance(plan, Plan):
            raise PlanError(
                f"the batching function returned {type(plan).__name__}, expected a Plan: "
                "batchwright.Plan(indices, offsets)."
            )
        if not np.array_equal(np.sort(plan.indices), np.sort(order)):
            raise PlanError(
                f"the batching function put {plan.indices.size} samples into batches, expected "
                f"the {order.size} of the order, each as often as it is there."
            )
        return Draft(plan.indices, plan.offsets, one_pool(pools, len(plan)))


def as_batching(batching: Batching | BatchingFunction) -> Batching:
    """Return a batching as it is, or one that calls a function.

    Raises:
        BudgetError: If it is neither.
    """
    is_type = isinstance(batching, type)
    if not is_type and isinstance(batching, Batching):
        return batching
    if is_type or not callable(batching) or not takes(batching, None, None, None):
        raise BudgetError(
            f"batching={batching!r}: expected TokenBudget(…), Packing(…), FixedSize(…), or a "
            "function (order, lengths, rng) → Plan."
        )
    return Custom(batching)
