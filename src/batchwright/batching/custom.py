"""Batchings from outside: a function of the user's, and what a state wrote down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from batchwright._checks import takes
from batchwright.batching.buckets import Buckets
from batchwright.batching.draft import Draft, Request, probed_count
from batchwright.batching.fixed_size import FixedSize
from batchwright.batching.packing import Packing
from batchwright.batching.token_budget import TokenBudget
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Padded
from batchwright.plans import Plan
from batchwright.typing import Batching, IntArray, LengthArray, Oversize, State

BatchingFunction: TypeAlias = Callable[[IntArray, LengthArray, "np.random.Generator"], Plan]
"""``(order, lengths, rng) → Plan``: order int64[m], lengths integer[n]."""

_KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Buckets, FixedSize, Packing, TokenBudget)
}


@dataclass(frozen=True)
class Custom:
    """Let a function make the batches.

    Args:
        function: ``(order, lengths, rng) → Plan``. It may use `rng`, and must use every sample
            of `order` exactly as often as it is there; else planning raises PlanError.

    Example:
        >>> import batchwright as bw
        >>> def pairs(order, lengths, rng):
        ...     return bw.Plan(order, np.append(np.arange(0, order.size, 2), order.size))
        >>> len(bw.plan([3, 5, 2], batching=pairs))
        2
    """

    function: BatchingFunction

    layout: ClassVar[Padded] = Padded()  # without a budget
    oversize: ClassVar[Oversize] = "error"

    def count(self, request: Request) -> int:
        """Return how many batches a few draws need."""
        return probed_count(lambda: self.draft(request), is_random=True)

    def draft(self, request: Request) -> Draft:
        """Call the function and check what it returns. O(m log m)."""
        order = request.pools.sequence(request.rng)
        plan = self.function(order, request.lengths, request.rng)
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
        return Draft.of_sequence(request, plan.indices, plan.offsets)


def as_batching(batching: Batching | BatchingFunction) -> Batching:
    """Return a batching as it is, or one that calls a function; raise BudgetError for others."""
    if not isinstance(batching, type):
        if isinstance(batching, Batching):
            return batching
        if callable(batching) and takes(batching, None, None, None):
            return Custom(batching)
    raise BudgetError(
        f"batching={batching!r}: expected TokenBudget(…), Packing(…), FixedSize(…), or a "
        "function (order, lengths, rng) → Plan."
    )


def described(batching: Batching) -> State | None:
    """Describe a batching for a state: its name, and the settings that differ from their defaults.

    None: it is not one of ours, or holds a function.
    """
    import json  # here, so that `import batchwright` stays quick

    name = type(batching).__name__
    if _KINDS.get(name) is not type(batching):
        return None
    settings = {
        field.name: getattr(batching, field.name)
        for field in dataclasses.fields(_KINDS[name])
        if getattr(batching, field.name) != field.default
    }
    try:
        return {"kind": name, **json.loads(json.dumps(settings))}
    except TypeError:  # a function
        return None


def rebuilt(description: State) -> Batching:
    """Make the batching that `described` wrote down, without executing code, or raise PlanError."""
    try:
        settings = {name: _as_tuples(value) for name, value in description.items()}
        batching: Batching = _KINDS[str(settings.pop("kind"))](**settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"the state names the batching {description!r}, which this version does not have "
            f"({error}). Resume with the version of batchwright that saved it."
        ) from error
    return batching


def _as_tuples(value: object) -> object:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
