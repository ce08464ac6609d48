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
from batchwright.report.rows import SUMMARY, UNICODE, PlanView, layout_line, plan_rows
from batchwright.stats.costs import StepCosts
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import LengthStats
from batchwright.stats.plan_facts import Measured, PlanFacts
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
    figures = [row for group in plan_rows(view, UNICODE) for row in group]
    sections += [
        _coverage(facts),
        Section(
            "The plan in figures", head=("", "", "what it means"), rows=figures, is_wrapped=True
        ),
    ]
    about = f"{number(file.num_batches)} batches of {plural(file.num_samples, 'sample')}: "
    return page(
        f"Plan {Path(view.plan or '').name}",
        sections,
        view.as_json(),
        about=f"{about}{layout_line(file.layout, unit)}.",
    )


def _lengths(lengths: LengthStats, unit: str) -> Section:
    plots = length_plots(lengths.histogram, unit=unit)
    names = ("num_samples", "num_tokens", *SUMMARY)
    return Section(
        "Lengths",
        head=("samples", unit, *SUMMARY),
        rows=[[number(getattr(lengths, name)) for name in names]],
        plots=plots,
        note="" if plots else "All samples are equally long.",
    )


def _waste(facts: PlanFacts, measured: Measured, unit: str) -> Section:
    """Show what a plan wastes, beside other batches in the same memory."""
    kinds = [("this plan", measured.waste.plan, facts.file.num_batches)]
    notes = []
    plain = measured.plain_batches
    budgeted = None if facts.inspected is None else facts.inspected.within_budget
    if plain is not None and measured.waste.plain_batches is not None:
        kinds.append(("plain batches", measured.waste.plain_batches, plain.num_batches))
        samples = plural(plain.batch_size, "random sample")
        notes.append(f"Plain batches hold {samples}: the most that always fit the budget.")
    if budgeted is not None:
        kinds.append(("within a budget", budgeted.padding, budgeted.num_batches))
        notes.append(
            f"Within a budget: padded batches of at most {number(budgeted.max_tokens)} {unit}, as "
            "large as the largest of this plan."
        )
    return Section(
        "Waste",
        head=("", facts.wasted, "batches"),
        rows=[(name, percent(share), number(count)) for name, share, count in kinds],
        plots=waste_plots({name: share for name, share, _ in kinds}, what=facts.wasted),
        note=" ".join(notes),
    )


def _shapes(shapes: ShapeStats, unit: str) -> Section:
    is_packed = shapes.kind == "packed"
    note = f"{number(shapes.distinct)} distinct shapes of a {'row' if is_packed else 'batch'}"
    if shapes.distinct > len(shapes.commonest):
        note += f", the {number(len(shapes.commonest))} commonest are listed"
    plots = shape_plots({"Batch shapes": shapes}, unit=unit)
    return Section(
        "Batch shapes",
        head=(
            "row length" if is_packed else "rows × length",
            *("batches", "of all", "samples", "padding"),
        ),
        rows=[
            (
                _shape(each, is_packed=is_packed),
                number(each.batches),
                percent(each.share),
                number(each.samples),
                percent(each.padding),
            )
            for each in shapes.commonest
        ],
        plots=plots,
        note=f"{note}. {DOTS}" if plots else f"{note}.",
    )


def _shape(shape: Shape, *, is_packed: bool) -> str:
    columns = (shape.length,) if isinstance(shape.length, int) else shape.length
    length = " + ".join(map(number, columns))
    return length if is_packed else f"{number(shape.rows)} × {length}"


def _costs(costs: StepCosts, unit: str) -> list[Section]:
    """Show what steps cost each rank, and the share of time spent waiting for the slowest."""
    row = [number(each) for each in (costs.least, costs.mean, costs.most)]
    head = ["least", "mean", "most"]
    steps, ranks = plural(costs.num_steps, "step"), plural(costs.world_size, "rank")
    slots = plural(costs.accumulate, "batch")
    note = f"Padded {unit} of a rank in a step: {steps} of {ranks}, {slots} each."
    if costs.world_size > 1:
        head += ["slowest rank over mean", "waiting"]
        row += [f"{costs.slowest_over_mean:.3f}", percent(costs.waiting)]
        note += " Waiting: for the slowest rank, if time follows padded tokens."
    plots = []
    if costs.num_steps > 1:
        note += " The line is the mean, the band goes from the least to the most"
        note += " of ranks." if costs.steps_a_point == 1 else " of ranks and steps."
        curve = costs.curve
        values = (curve.step, curve.mean, curve.least, curve.most)
        plots.append(band("Cost per step", *values, across="step", up=f"padded {unit} a rank"))
    sections = [Section("Cost per rank and step", head=head, rows=[row], plots=plots, note=note)]
    if costs.per_rank is not None and costs.world_size > 1:
        totals = [(str(rank), number(total)) for rank, total in enumerate(costs.per_rank)]
        sections.append(Section(head=("rank", f"padded {unit} of the epoch"), rows=totals))
    return sections


def _coverage(facts: PlanFacts) -> Section:
    """Show how often an epoch holds each sample, and what it leaves out, with the reason."""
    file, coverage = facts.file, facts.file.coverage
    rows = [
        (
            _times(each.times, is_last=each.times == coverage.most),
            number(each.samples),
            "" if each.share is None else percent(each.share),
        )
        for each in coverage.times
    ]
    others = {f"dropped: {reason}": count for reason, count in file.dropped_by_reason.items()}
    cut = {"truncated": facts.truncated, "split": facts.split}
    others |= {name: count for name, count in cut.items() if count}
    rows += [(name, number(count), "") for name, count in others.items()]
    if coverage.num_lengths is None:
        note = "The file does not say how many samples the data have."
    else:
        note = f"Of {plural(coverage.num_lengths, 'sample')}."
    if file.dropped:
        note += " Dropped ones are among those in no batch."
    return Section("Coverage", head=("", "samples", "of all"), rows=rows, note=note)


def _times(times: int, *, is_last: bool) -> str:
    if times == 0:
        return "in no batch"
    said = "once" if times == 1 else f"{number(times)} times"
    return f"{said} or more" if is_last else said
