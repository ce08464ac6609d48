"""What is said of a plan: what to do first, and how it compares with the batches of today."""

from collections.abc import Iterator

from batchwright._format import number, percent, plural
from batchwright.stats.baseline import UNLIKE, PlainBatches, are_unlike
from batchwright.stats.plan_facts import Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats

PADDING = 0.05  # less is not mentioned
LESS = 0.5  # a setting is proposed if it leaves less than this share of the padding
IMBALANCE = 1.03  # ranks that wait less are not mentioned
ALIKE = 0.03  # tokens an update that differ less are called the same


def comparison(facts: PlanFacts, unit: str = "tokens") -> Iterator[str]:
    """Compare a plan with the batches of today, in figures.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> lengths = [1, 9, 9, 9] * 40
        >>> facts = plan_facts(bw.plan(lengths, batch_size=10), lengths, batch_size=10)
        >>> list(comparison(facts))[-1]
        'Yours: 16 batches, 22.2 % padding; planned, same tokens per update: 16, 0 %.'
    """
    if facts.measured is None:
        return
    stats, plain, layout = facts.measured.stats, facts.measured.plain_batches, facts.file.layout
    if plain is None:
        if layout.max_samples is not None and facts.measured.waste.plan >= PADDING:
            yield (
                f"{plural(stats.num_batches, 'batch')} as they come, "
                f"{percent(1 - stats.efficiency)} padding; --batch-size {layout.max_samples} "
                "plans such updates within a budget."
            )
        return
    if stats.budget is not None and plain.max_batch_tokens > stats.budget and not plain.assumed:
        yield (
            "Your batches exceed the budget where long samples meet: up to "
            f"{number(plain.max_batch_tokens)} {unit}."
        )
    whose = "Yours"
    if plain.assumed:
        rows, step = plural(plain.batch_size, "sample"), round(plain.step_tokens_mean)
        whose = f"Assumed {rows} a batch, step_tokens={step} (yours: --batch-size N)"
    same = f", same {unit} per update" if _is_same(stats, plain) else ""
    empty = " empty" if facts.wasted == "empty" else ""
    yield (
        f"{whose}: {plural(plain.num_batches, 'batch')}, {percent(1 - plain.efficiency)} padding; "
        f"planned{same}: {number(stats.num_batches)}, {percent(facts.measured.waste.plan)}{empty}."
    )


def conflict(facts: PlanFacts) -> Iterator[str]:
    """Say where speed and mix conflict."""
    if facts.measured is None or not _conflicts(facts.measured):
        return
    stats, plain, smaller = (
        facts.measured.stats,
        facts.measured.plain_batches,
        facts.measured.smaller_batches,
    )
    assert smaller is not None  # noqa: S101 -- _conflicts
    cure = ""
    if plain is not None and not plain.assumed and _is_same(stats, plain):
        rows = round(plain.batch_size * plain.accumulate / smaller.accumulate)
        cure = f" (--batch-size {max(1, rows)} --accumulate {smaller.accumulate})"
    held = plural(stats.world_size * stats.accumulate, "batch")
    yield (
        f"With {held} an update, speed and mix conflict: a length mix of {stats.dispersion:.2f} (a "
        f"shuffle has 1) at {percent(1 - stats.efficiency)} padding. In "
        f"{smaller.accumulate * stats.world_size} smaller batches{cure}, which keep a device less "
        f"busy: {smaller.dispersion:.2f} at {percent(1 - smaller.efficiency)}."
    )


def _is_same(stats: PlanStats, plain: PlainBatches) -> bool:
    """Say whether updates have as many tokens in both."""
    return abs(plain.step_tokens_mean / stats.step_tokens_mean - 1) <= ALIKE


def _conflicts(measured: Measured) -> bool:
    """Say whether smaller batches would mix updates that are unlike one another."""
    smaller = measured.smaller_batches
    return smaller is not None and are_unlike(measured.stats.dispersion, smaller.dispersion)


def outliers(facts: PlanFacts, unit: str = "tokens") -> str:
    """Name the few samples that decide how large batches are; empty if there are none.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> lengths = [5] * 2_000 + [9_000]
        >>> print(outliers(plan_facts(bw.plan(lengths, batch_size=8), lengths, batch_size=8)))
        1 of 2,001 samples (0.05 %) sets the budget: up to 9,000 tokens, where p99.9 is 5. With \
--oversize drop or truncate, 40 would do.
    """
    measured, file = facts.measured, facts.file
    if measured is None or not measured.budgets.num_longer:
        return ""
    if file.layout.max_length is not None or "oversize" in file.dropped_by_reason:
        return ""  # they are cut or dropped
    budgets, cure = measured.budgets, ""
    does = "is an outlier" if budgets.num_longer == 1 else "are outliers"
    if measured.stats.budget is not None:
        does = "sets the budget" if budgets.num_longer == 1 else "set the budget"
        cure = f" With --oversize drop or truncate, {number(budgets.max_tokens)} would do."
    usual = f"p99.9 is {number(budgets.p999)}"
    if budgets.p999 > budgets.max_tokens:
        usual = f"p99 is {number(budgets.p99)}"
    return (
        f"{number(budgets.num_longer)} of {plural(budgets.num_samples, 'sample')} "
        f"({percent(budgets.share_longer)}) {does}: up to {number(budgets.longest)} {unit}, "
        f"where {usual}.{cure}"
    )


def first_steps(facts: PlanFacts, unit: str = "tokens") -> list[str]:
    """Say what to do first about a plan, in one sentence or more, the most important first.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> first_steps(plan_facts(bw.plan([4, 4], max_tokens=8), [4, 4]))
        ['Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is ...
    """
    said, measured = list(of_samples(facts, unit)), facts.measured
    fine = "hardly any padding, no rank waits, updates are alike, every sample is seen"
    if measured is None:
        said.append("Name the SOURCE that the plan was made for, to see padding, mix and balance.")
    else:
        said += [*_padding(facts, measured), *_mix(measured), *conflict(facts)]
    return said or [f"Nothing to do: {fine}."]


def of_samples(facts: PlanFacts, unit: str) -> Iterator[str]:
    """Name first what is never trained on, which is worse than waste."""
    file, dropped = facts.file, facts.file.dropped_by_reason
    parts = [
        f"{plural(n, 'sample')} dropped ({reason})"
        for reason, n in dropped.items()
        if n and reason != "empty"  # there is nothing in them to see
    ]
    if file.absent:
        parts.append(f"{plural(file.absent, 'sample')} in no batch")
    if parts:
        cure = "If the file is not the shard of a single rank, plan again."
        if "oversize" in dropped:
            cure = "Raise the budget, or cut longer samples: --oversize truncate."
        yield f"This epoch does not see every sample: {', '.join(parts)}. {cure}"
    if file.repeated:
        yield (
            f"{plural(file.repeated, 'repetition')} of samples: right for an order that draws, "
            "wrong for an epoch of all samples."
        )
    if facts.truncated:
        lose = "loses" if facts.truncated == 1 else "lose"
        yield (
            f"{plural(facts.truncated, 'sample')} {lose} {unit} to the limit of a row. "
            "Raise the budget if their ends matter."
        )


def _padding(facts: PlanFacts, measured: Measured) -> Iterator[str]:
    waste, layout, within = measured.waste.plan, facts.file.layout, facts.within_budget
    if waste < PADDING:
        return
    most = max(UNLIKE, measured.stats.dispersion)
    mixed = [each for each in facts.dial or () if each.dispersion <= most]
    better = max(mixed, key=lambda each: each.efficiency, default=None)
    cure = "More samples a batch reduce it, or --pack if the model supports packed rows."
    if layout.kind == "packed":
        cure = "Longer rows, or more samples, leave less."
    elif better is not None and 1 - better.efficiency < LESS * waste:
        cure = (
            f"mixing={better.mixing!r} would leave {percent(1 - better.efficiency)}, at a "
            f"length mix of {better.dispersion:.2f}."
        )
    elif within is not None and within.padding < LESS * waste:
        cure = (
            f"Planned from the same batch size, it is {percent(within.padding)}: plan again with "
            f"--batch-size {layout.max_samples}."
        )
    elif layout.max_samples is not None and layout.budget is None:
        cure = f"Plan again with --batch-size {layout.max_samples}: such updates, within a budget."
    elif layout.shapes is not None:
        cure = "More shapes reduce it."
    elif layout.multiple > 1:
        cure = f"Rows are rounded up to multiples of {layout.multiple}."
    yield f"{percent(waste)} of what is computed is {facts.wasted}. {cure}"


def _mix(measured: Measured) -> Iterator[str]:
    """Name updates that are unlike one another, and ranks that wait."""
    stats = measured.stats
    if stats.dispersion > UNLIKE and not _conflicts(measured):
        cure = "More batches an update mix better: --step-tokens, or --accumulate."
        if stats.world_size * stats.accumulate >= 8:
            cure = "--mixing stratified or update mixes them."
        yield (
            f"Updates are unlike one another: their length mix is {number(stats.dispersion)}, "
            f"where a plain shuffle has 1. {cure}"
        )
    if stats.world_size == 1:
        return
    cure = "balances the cost of batches over ranks"
    if stats.accumulate == 1:
        cure += "; with one batch a rank updates become unlike: raise --accumulate with it"
    if stats.imbalance_padded >= IMBALANCE:
        yield (
            f"Ranks wait: the slowest rank of a step takes {stats.imbalance_padded:.3f} × the mean "
            f"in padded tokens. --cost padded {cure}."
        )
    elif stats.imbalance_quadratic >= IMBALANCE:
        yield (
            "Ranks are even in padded tokens, but in squared lengths the slowest rank of a step "
            f"takes {stats.imbalance_quadratic:.3f} × the mean. If attention takes most of the "
            f"time: --cost quadratic {cure}."
        )
