"""What `inspect` says of a plan: what to do first, and its page."""

from collections.abc import Iterator
from pathlib import Path

from batchwright._format import number, percent, plural
from batchwright.report.page import (
    DOTS,
    Section,
    dial_section,
    length_plots,
    page,
    shape_plots,
    waste_plots,
)
from batchwright.report.plots import band
from batchwright.report.rows import (
    SUMMARY,
    UNICODE,
    PlanView,
    control_line,
    layout_line,
    plan_rows,
    waste_of,
)
from batchwright.stats.costs import StepCosts
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import LengthStats
from batchwright.stats.plan_facts import Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats
from batchwright.stats.shapes import Shape, ShapeStats

PADDING = 0.05
"""Less padding than this is not mentioned."""

LESS = 0.5
"""A setting is proposed if it leaves less than this share of the padding."""

IMBALANCE = 1.03
"""Ranks that wait less than this are not mentioned."""

UNLIKE = 2.0
"""Updates more dispersed than this are called unlike one another."""


def first_steps(facts: PlanFacts, unit: str = "tokens") -> list[str]:
    """Say what to do first about a plan, in one sentence or more, the most important first.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> first_steps(plan_facts(bw.plan([4, 4], max_tokens=8), [4, 4]))
        ['Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is ...
    """
    said, measured = list(_of_samples(facts, unit)), facts.measured
    if measured is None:
        last = "Name the SOURCE that the plan was made for, to see padding, mix and balance."
        return [*said, last]
    said += [*_padding(facts, measured), *_unlike(measured.stats), *_waiting(measured.stats)]
    return said or [
        "Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is seen."
    ]


def _of_samples(facts: PlanFacts, unit: str) -> Iterator[str]:
    """Name first what is never trained on, which is worse than waste."""
    file, dropped = facts.file, facts.file.dropped_by_reason
    if file.dropped or file.absent:
        counted = {reason: plural(count, "sample") for reason, count in dropped.items() if count}
        parts = [f"{samples} dropped ({reason})" for reason, samples in counted.items()]
        if file.absent:
            parts.append(f"{plural(file.absent, 'sample')} in no batch")
        cure = ""
        if "oversize" in dropped:
            cure = " Raise the budget, or cut longer samples: --oversize truncate."
        elif file.absent:
            cure = " If the file is not the shard of a single rank, plan again."
        yield f"This epoch does not see every sample: {', '.join(parts)}.{cure}"
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


def _padding(facts: PlanFacts, measured: Measured) -> Iterator[str]:
    waste, layout = measured.waste.plan, facts.file.layout
    if waste < PADDING:
        return
    if layout.kind == "packed":
        yield (
            f"{percent(waste)} of the rows is empty: the last rows of a small epoch, or samples "
            "nearly as long as a row. Longer rows pack better."
        )
        return
    budgeted = facts.within_budget
    if better := _better_position(facts, measured):
        cure = (
            f"mixing={better.mixing!r} would leave {percent(1 - better.efficiency)}, at a "
            f"dispersion of {better.dispersion:.2f}."
        )
    elif budgeted is not None and budgeted.padding < LESS * waste:
        cure = (
            "Batches within a budget instead of a fixed size would leave "
            f"{percent(budgeted.padding)}: --max-tokens {budgeted.max_tokens}."
        )
    elif layout.shapes is not None:
        cure = "More shapes reduce it."
    elif layout.multiple > 1:
        cure = f"Rows are rounded up to multiples of {layout.multiple}."
    else:
        cure = "More samples a batch reduce it, or --pack if the model supports packed rows."
    yield f"{percent(waste)} of what is computed is padding. {cure}"


def _better_position(facts: PlanFacts, measured: Measured) -> DialPosition | None:
    """Return the position of the dial that pads least, if that is far less and it mixes well."""
    positions = [
        each
        for each in facts.dial or ()
        if 1 - each.efficiency < LESS * measured.waste.plan
        and each.dispersion <= max(UNLIKE, measured.stats.dispersion)
    ]
    return max(positions, key=lambda each: each.efficiency, default=None)


def _unlike(stats: PlanStats) -> Iterator[str]:
    if stats.dispersion > UNLIKE:
        cure = "More batches an update mix better: --step-tokens, or --accumulate."
        if stats.world_size * stats.accumulate >= 8:
            cure = "--mixing stratified or update mixes them."
        yield (
            f"Updates are unlike one another: dispersion {number(stats.dispersion)}, where a plain "
            f"shuffle has 1. {cure}"
        )


def _waiting(stats: PlanStats) -> Iterator[str]:
    balances = "balances the cost of batches over ranks"
    if stats.accumulate == 1:
        balances += (
            "; with one batch a rank that makes updates unlike one another, so raise --accumulate "
            "with it"
        )
    if stats.world_size > 1 and stats.imbalance_padded >= IMBALANCE:
        yield (
            f"Ranks wait: the slowest rank of a step takes {stats.imbalance_padded:.3f} × the mean "
            f"in padded tokens. --cost padded {balances}."
        )
    elif stats.world_size > 1 and stats.imbalance_quadratic >= IMBALANCE:
        yield (
            "Ranks are even in padded tokens, but in squared lengths the slowest rank of a step "
            f"takes {stats.imbalance_quadratic:.3f} × the mean. If attention takes most of the "
            f"time: --cost quadratic {balances}."
        )


def inspected_page(view: PlanView) -> str:
    """Write the page of a saved plan, as HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    facts, unit, file = view.facts, view.unit, view.facts.file
    sections = [Section("What to do first", sentences=first_steps(facts, unit))]
    if facts.measured is not None:
        sections += [_lengths(facts.measured.lengths, unit), _waste(facts, facts.measured, unit)]
    if facts.inspected is not None:
        sections.append(_shapes(facts.inspected.shapes_of_batches, unit))
    if facts.dial:
        ranks, slots = plural(file.world_size, "rank"), plural(file.accumulate, "batch")
        sections.append(dial_section(facts.dial, note=f"Updates of {ranks} × {slots}."))
    if facts.inspected is not None:
        sections += _costs(facts.inspected.step_costs, unit)
    figures = [
        {"": row.label, " ": row.figure, "what it means": row.note}
        for group in plan_rows(view, UNICODE)
        for row in group
    ]
    sections += [_coverage(facts), Section("The plan in figures", rows=figures, is_wrapped=True)]
    about = f"{number(file.num_batches)} batches of {plural(file.num_samples, 'sample')}: "
    return page(
        f"Plan {Path(view.plan or '').name}",
        sections,
        view.as_json(),
        about=f"{about}{layout_line(file.layout, unit)}.",
    )


def _lengths(lengths: LengthStats, unit: str) -> Section:
    plots = length_plots(lengths.histogram, unit=unit)
    row = {"samples": number(lengths.num_samples), unit: number(lengths.num_tokens)}
    row |= {name: number(getattr(lengths, name)) for name in SUMMARY}
    note = "" if plots else "All samples are equally long."
    return Section("Lengths", rows=[row], plots=plots, note=note)


def _waste(facts: PlanFacts, measured: Measured, unit: str) -> Section:
    """Show what a plan wastes, beside other batches in the same memory."""
    kinds, note = waste_of(facts, measured), control_line(facts, measured, unit)
    rows = [
        {"": name, facts.wasted: percent(share), "batches": number(count)}
        for name, share, count in kinds
    ]
    plots = waste_plots({name: share for name, share, _ in kinds}, what=facts.wasted)
    return Section("Waste", rows=rows, plots=plots, note=note)


def _shapes(shapes: ShapeStats, unit: str) -> Section:
    is_packed = shapes.kind == "packed"
    note = f"{number(shapes.distinct)} distinct shapes of a {'row' if is_packed else 'batch'}"
    if shapes.distinct > len(shapes.commonest):
        note += f", the {number(len(shapes.commonest))} commonest are listed"
    plots = shape_plots({"Batch shapes": shapes}, unit=unit)
    rows = [
        {
            "row length" if is_packed else "rows × length": _shape(each, is_packed=is_packed),
            "batches": number(each.batches),
            "of all": percent(each.share),
            "samples": number(each.samples),
            "padding": percent(each.padding),
        }
        for each in shapes.commonest
    ]
    note = f"{note}. {DOTS}" if plots else f"{note}."
    return Section("Batch shapes", rows=rows, plots=plots, note=note)


def _shape(shape: Shape, *, is_packed: bool) -> str:
    columns = (shape.length,) if isinstance(shape.length, int) else shape.length
    length = " + ".join(map(number, columns))
    return length if is_packed else f"{number(shape.rows)} × {length}"


def _costs(costs: StepCosts, unit: str) -> Iterator[Section]:
    """Show what steps cost each rank, and the share of time spent waiting for the slowest."""
    row = {name: number(getattr(costs, name)) for name in ("least", "mean", "most")}
    steps, ranks = plural(costs.num_steps, "step"), plural(costs.world_size, "rank")
    slots = plural(costs.accumulate, "batch")
    note = f"Padded {unit} of a rank in a step: {steps} of {ranks}, {slots} each."
    if costs.world_size > 1:
        row["slowest rank over mean"] = f"{costs.slowest_over_mean:.3f}"
        row["waiting"] = percent(costs.waiting)
        note += " Waiting: for the slowest rank, if time follows padded tokens."
    plots = []
    if costs.num_steps > 1:
        note += " The line is the mean, the band goes from the least to the most"
        note += " of ranks." if costs.steps_a_point == 1 else " of ranks and steps."
        curve = costs.curve
        values = (curve.step, curve.mean, curve.least, curve.most)
        plots.append(band("Cost per step", *values, across="step", up=f"padded {unit} a rank"))
    yield Section("Cost per rank and step", rows=[row], plots=plots, note=note)
    if costs.per_rank is not None and costs.world_size > 1:
        total = f"padded {unit} of the epoch"
        yield Section(
            rows=[
                {"rank": str(rank), total: number(cost)} for rank, cost in enumerate(costs.per_rank)
            ]
        )


def _coverage(facts: PlanFacts) -> Section:
    """Show how often an epoch holds each sample, and what it leaves out, with the reason."""
    file, coverage = facts.file, facts.file.coverage
    rows = [
        (_times(each.times, is_last=each.times == coverage.most), each.samples, each.share)
        for each in coverage.times
    ]
    dropped = file.dropped_by_reason.items()
    rows += [(f"dropped: {reason}", count, None) for reason, count in dropped]
    cut = {"truncated": facts.truncated, "split": facts.split}
    rows += [(name, count, None) for name, count in cut.items() if count]
    if coverage.num_lengths is None:
        note = "The file does not say how many samples the data have."
    else:
        note = f"Of {plural(coverage.num_lengths, 'sample')}."
    if file.dropped:
        note += " Dropped ones are among those in no batch."
    shown = [
        {"": name, "samples": number(count), "of all": "" if share is None else percent(share)}
        for name, count, share in rows
    ]
    return Section("Coverage", rows=shown, note=note)


def _times(times: int, *, is_last: bool) -> str:
    if times == 0:
        return "in no batch"
    said = "once" if times == 1 else f"{number(times)} times"
    return f"{said} or more" if is_last else said
