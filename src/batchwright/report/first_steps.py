"""What to do first about a plan: each kind of advice is one function from facts to a sentence."""

from collections.abc import Callable, Mapping
from typing import Any

from batchwright.report.figures import number, percent, plural

Facts = Mapping[str, Any]

PADDING = 0.05
"""Less padding than this is worth no word."""

LESS = 0.5
"""A setting is worth a word if it leaves less than this share of the padding."""

IMBALANCE = 1.03
"""Ranks that wait less than this are no matter."""

UNLIKE = 2.0
"""Updates that are more dispersed than this are."""


def first_steps(facts: Facts) -> list[str]:
    """Say what to do first about a plan.

    Args:
        facts: What ``inspect --json`` prints, with SOURCE or without.

    Returns:
        Sentences, what weighs most first; one at least.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.report import plan_facts
        >>> facts = plan_facts(bw.plan([4, 4], max_tokens=8), [4, 4])
        >>> first_steps(facts | {"unit": "tokens"})
        ['Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is ...
    """
    said = [told for each in _KINDS if (told := each(facts)) is not None]
    if "efficiency" not in facts:
        return [
            *said,
            "Name the SOURCE that the plan was made for, to see padding, mix and balance.",
        ]
    return said or [
        "Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is seen."
    ]


def _lost(facts: Facts) -> str | None:
    """Name samples that are never trained on: that is worse than waste."""
    missing = facts["absent"] or 0
    if not facts["dropped"] and not missing:
        return None
    parts = [
        f"{plural(count, 'sample')} dropped ({reason})"
        for reason, count in facts["dropped_by_reason"].items()
        if count
    ]
    if missing:
        parts.append(f"{plural(missing, 'sample')} in no batch")
    cure = ""
    if "oversize" in facts["dropped_by_reason"]:
        cure = " Raise the budget, or cut what is longer: --oversize truncate."
    elif missing:
        cure = " A shard holds the batches of one rank only; otherwise plan again."
    return f"This epoch does not see every sample: {', '.join(parts)}.{cure}"


def _repeated(facts: Facts) -> str | None:
    if not facts["repeated"]:
        return None
    return (
        f"{plural(facts['repeated'], 'repetition')} of samples: right for an order that draws, "
        "wrong for an epoch of all samples."
    )


def _cut(facts: Facts) -> str | None:
    if not facts.get("truncated"):
        return None
    return (
        f"{plural(facts['truncated'], 'sample')} lose {facts['unit']} to the limit of a row. "
        "Raise the budget if their ends matter."
    )


def _padding(facts: Facts) -> str | None:
    if "waste" not in facts or facts["waste"]["plan"] < PADDING:
        return None
    waste = facts["waste"]["plan"]
    if facts["layout"]["kind"] == "packed":
        return (
            f"{percent(waste)} of the rows is empty: the last rows of a small epoch, or samples "
            "nearly as long as a row. Longer rows pack better."
        )
    return f"{percent(waste)} of what is computed is padding. {_less_padding(facts)}"


def _less_padding(facts: Facts) -> str:
    """Say what pads less than a plan of padded batches does."""
    better, budgeted = _better_position(facts), facts.get("within_budget")
    if better is not None:
        return (
            f"mixing={better['mixing']!r} would leave {percent(1 - better['efficiency'])}, at a "
            f"dispersion of {better['dispersion']:.2f}."
        )
    if budgeted is not None and budgeted["padding"] < LESS * facts["waste"]["plan"]:
        return (
            "Batches of a budget in place of a fixed size would leave "
            f"{percent(budgeted['padding'])}: --max-tokens {budgeted['max_tokens']}."
        )
    if facts["layout"]["shapes"] is not None:
        return "More shapes pad less."
    if facts["layout"]["multiple"] > 1:
        return f"Rows are rounded up to multiples of {facts['layout']['multiple']}."
    return "More samples a batch, or --pack where the model can, pad less."


def _better_position(facts: Facts) -> Facts | None:
    """Return the position of the dial that pads far less and mixes no worse than a threshold."""
    waste = facts["waste"]["plan"]
    positions = [
        each
        for each in facts.get("dial", ())
        if 1 - each["efficiency"] < LESS * waste
        and each["dispersion"] <= max(UNLIKE, facts["dispersion"])
    ]
    return min(positions, key=lambda each: 1 - each["efficiency"], default=None)


def _waiting(facts: Facts) -> str | None:
    if facts["world_size"] == 1 or "imbalance_padded" not in facts:
        return None
    if facts["imbalance_padded"] >= IMBALANCE:
        return (
            f"Ranks wait: a step's slowest takes {facts['imbalance_padded']:.3f} × the mean in "
            f"padded tokens. {_evened('padded', facts)}"
        )
    if facts["imbalance_quadratic"] >= IMBALANCE:
        return (
            "Ranks are even in padded tokens, but in squared lengths a step's slowest takes "
            f"{facts['imbalance_quadratic']:.3f} × the mean. Where attention takes most of the "
            f"time: {_evened('quadratic', facts)}"
        )
    return None


def _evened(cost: str, facts: Facts) -> str:
    """Say what evens ranks out, and what that costs: with one slot a rank, the mix."""
    if facts["accumulate"] > 1:
        return f"--cost {cost} deals batches by what they cost."
    return (
        f"--cost {cost} deals batches by what they cost; with a single batch for each rank that "
        "makes updates unlike one another, so raise --accumulate with it."
    )


def _unlike(facts: Facts) -> str | None:
    if facts.get("dispersion", 1.0) <= UNLIKE:
        return None
    size = facts["world_size"] * facts["accumulate"]
    cure = "More batches an update mix better: --step-tokens, or --accumulate."
    if size >= 8:
        cure = "--mixing stratified or update mixes them."
    return (
        f"Updates are unlike one another: dispersion {number(facts['dispersion'])}, where a plain "
        f"shuffle has 1. {cure}"
    )


_KINDS: tuple[Callable[[Facts], str | None], ...] = (
    _lost,
    _repeated,
    _cut,
    _padding,
    _unlike,
    _waiting,
)
