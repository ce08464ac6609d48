"""What to do first about a plan: each kind of advice is a function from facts to a sentence."""

from collections.abc import Iterator

from batchwright._format import number, percent, plural
from batchwright.stats.dial import DialPosition
from batchwright.stats.plan_facts import Measured, PlanFacts

PADDING = 0.05
"""Less padding than this is not mentioned."""

LESS = 0.5
"""A setting is proposed if it leaves less than this share of the padding."""

IMBALANCE = 1.03
"""Ranks that wait less than this are not mentioned."""

UNLIKE = 2.0
"""Updates more dispersed than this are called unlike one another."""


def first_steps(facts: PlanFacts, unit: str = "tokens") -> list[str]:
    """Say what to do first about a plan.

    Args:
        facts: Of the plan.
        unit: What lengths count.

    Returns:
        One sentence or more, the most important first.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> first_steps(plan_facts(bw.plan([4, 4], max_tokens=8), [4, 4]))
        ['Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is ...
    """
    said = list(_of_samples(facts, unit))
    if facts.measured is None:
        return [
            *said,
            "Name the SOURCE that the plan was made for, to see padding, mix and balance.",
        ]
    for find in (_padding, _unlike, _waiting):
        sentence = find(facts, facts.measured)
        said += [] if sentence is None else [sentence]
    return said or [
        "Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is seen."
    ]


def _of_samples(facts: PlanFacts, unit: str) -> Iterator[str]:
    """Name samples that are never trained on, which is worse than waste; then what is repeated."""
    file = facts.file
    if file.dropped or file.absent:
        yield _lost(file.dropped_by_reason, file.absent or 0)
    if file.repeated:
        yield (
            f"{plural(file.repeated, 'repetition')} of samples: right for an order that draws, "
            "wrong for an epoch of all samples."
        )
    if facts.truncated:
        yield (
            f"{plural(facts.truncated, 'sample')} lose {unit} to the limit of a row. "
            "Raise the budget if their ends matter."
        )


def _lost(dropped: dict[str, int], absent: int) -> str:
    parts = [
        f"{plural(count, 'sample')} dropped ({reason})"
        for reason, count in dropped.items()
        if count
    ]
    if absent:
        parts.append(f"{plural(absent, 'sample')} in no batch")
    cure = ""
    if "oversize" in dropped:
        cure = " Raise the budget, or cut longer samples: --oversize truncate."
    elif absent:
        cure = " If the file is not the shard of a single rank, plan again."
    return f"This epoch does not see every sample: {', '.join(parts)}.{cure}"


def _padding(facts: PlanFacts, measured: Measured) -> str | None:
    waste = measured.waste.plan
    if waste < PADDING:
        return None
    if facts.file.layout.kind == "packed":
        return (
            f"{percent(waste)} of the rows is empty: the last rows of a small epoch, or samples "
            "nearly as long as a row. Longer rows pack better."
        )
    return f"{percent(waste)} of what is computed is padding. {_less_padding(facts, measured)}"


def _less_padding(facts: PlanFacts, measured: Measured) -> str:
    """Say what would reduce the padding of padded batches."""
    layout, better = facts.file.layout, _better_position(facts, measured)
    budgeted = None if facts.inspected is None else facts.inspected.within_budget
    if better is not None:
        return (
            f"mixing={better.mixing!r} would leave {percent(1 - better.efficiency)}, at a "
            f"dispersion of {better.dispersion:.2f}."
        )
    if budgeted is not None and budgeted.padding < LESS * measured.waste.plan:
        return (
            "Batches within a budget instead of a fixed size would leave "
            f"{percent(budgeted.padding)}: --max-tokens {budgeted.max_tokens}."
        )
    if layout.shapes is not None:
        return "More shapes reduce it."
    if layout.multiple > 1:
        return f"Rows are rounded up to multiples of {layout.multiple}."
    return "More samples a batch reduce it, or --pack if the model supports packed rows."


def _better_position(facts: PlanFacts, measured: Measured) -> DialPosition | None:
    """Return the position of the dial that pads least, if that is far less and it mixes well."""
    positions = [
        each
        for each in facts.dial or ()
        if 1 - each.efficiency < LESS * measured.waste.plan
        and each.dispersion <= max(UNLIKE, measured.stats.dispersion)
    ]
    return max(positions, key=lambda each: each.efficiency, default=None)


def _waiting(facts: PlanFacts, measured: Measured) -> str | None:
    stats = measured.stats
    if stats.world_size == 1:
        return None
    if stats.imbalance_padded >= IMBALANCE:
        return (
            f"Ranks wait: the slowest rank of a step takes {stats.imbalance_padded:.3f} × the mean "
            f"in padded tokens. {_evened('padded', facts)}"
        )
    if stats.imbalance_quadratic >= IMBALANCE:
        return (
            "Ranks are even in padded tokens, but in squared lengths the slowest rank of a step "
            f"takes {stats.imbalance_quadratic:.3f} × the mean. If attention takes most of the "
            f"time: {_evened('quadratic', facts)}"
        )
    return None


def _evened(cost: str, facts: PlanFacts) -> str:
    if facts.file.accumulate > 1:
        return f"--cost {cost} balances the cost of batches over ranks."
    return (
        f"--cost {cost} balances the cost of batches over ranks; with one batch a rank that makes "
        "updates unlike one another, so raise --accumulate with it."
    )


def _unlike(_: PlanFacts, measured: Measured) -> str | None:
    stats = measured.stats
    if stats.dispersion <= UNLIKE:
        return None
    cure = "More batches an update mix better: --step-tokens, or --accumulate."
    if stats.world_size * stats.accumulate >= 8:
        cure = "--mixing stratified or update mixes them."
    return (
        f"Updates are unlike one another: dispersion {number(stats.dispersion)}, where a plain "
        f"shuffle has 1. {cure}"
    )
