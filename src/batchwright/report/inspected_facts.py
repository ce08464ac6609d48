"""The facts of a saved plan that `inspect` adds to those of `plan`."""

from typing import Any

import numpy as np

from batchwright.batching import TokenBudget
from batchwright.errors import BatchwrightError
from batchwright.lengths import as_lengths
from batchwright.planner import plan as plan_of
from batchwright.plans import Plan
from batchwright.report.cost_facts import step_costs
from batchwright.report.facts import plan_facts
from batchwright.report.shape_facts import shape_facts
from batchwright.typing import IntoLengths


def inspected_facts(plan: Plan, lengths: IntoLengths) -> dict[str, Any]:
    """Gather what `inspect` shows of a plan.

    Args:
        plan: The plan.
        lengths: integer[n], the lengths it was made for.

    Returns:
        What `plan_facts` returns; `shapes_of_batches`, as `shape_facts` returns it; `step_costs`;
        and `within_budget`. JSON as it stands. O(n log n), and two more plans at most.

    Raises:
        PlanMismatchError: If the plan was made for other lengths.
    """
    array = as_lengths(lengths)
    facts = plan_facts(plan, array)
    return facts | {
        "shapes_of_batches": shape_facts(plan, array),
        "step_costs": step_costs(plan, array),
        "within_budget": within_budget(plan, array, max_tokens=facts["max_batch_tokens"]),
    }


def within_budget(plan: Plan, lengths: IntoLengths, *, max_tokens: int) -> dict[str, Any] | None:
    """Measure what a plan without a budget would waste within one, as its control.

    Args:
        plan: The plan.
        lengths: integer[n], the lengths it was made for.
        max_tokens: The budget: the largest batch of the plan.

    Returns:
        `max_tokens`, `num_batches` and `padding` of a `TokenBudget`. None where the plan has a
        budget of its own, packs its rows, or cannot be made so.

    Example:
        >>> import batchwright as bw
        >>> lengths = [9, 1, 1, 9]
        >>> plan = bw.plan(lengths, batching=bw.FixedSize(2), order=bw.Sequential())
        >>> within_budget(plan, lengths, max_tokens=18)
        {'max_tokens': 18, 'num_batches': 2, 'padding': 0.0}
    """
    layout, origin = plan.layout, plan.origin
    if layout.budget is not None or layout.kind == "packed":
        return None
    entries = plan.entry_lengths(lengths)
    if origin.world_size * origin.accumulate > len(entries):
        return None  # updates that such samples cannot fill
    try:
        made = plan_of(
            entries,
            batching=TokenBudget(max_tokens, pad_to_multiple_of=layout.multiple),
            seed=origin.seed,
            world_size=origin.world_size,
            accumulate=origin.accumulate,
            last="repeat",
        )
    except BatchwrightError:  # too few samples for such updates
        return None
    laid_out = made.layout.batch_tokens(entries[made.indices], made.offsets)
    padding = 1 - float(np.sum(entries) / np.sum(laid_out))
    return {"max_tokens": max_tokens, "num_batches": len(made), "padding": padding}
