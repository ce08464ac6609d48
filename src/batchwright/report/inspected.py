"""What `plan` and `inspect` show of a plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from batchwright._format import duration, number, percent, plural
from batchwright.layout import Layout
from batchwright.report.plots import band
from batchwright.report.sections import DOTS, Report, Section, dial_section, shape_plots
from batchwright.stats.plan_facts import Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats
from batchwright.stats.shapes import ShapeStats, StepCosts

PADDING = 0.05  # less is not mentioned
LESS = 0.5  # a setting is proposed if it leaves less than this share of the padding
IMBALANCE = 1.03  # ranks that wait less are not mentioned
UNLIKE = 2.0  # updates more dispersed than this are called unlike one another


@dataclass(frozen=True)
class PlanView:
    """What `plan` and `inspect` show."""

    facts: PlanFacts  # of the plan
    unit: str = "tokens"  # what lengths count
    source: str | None = None  # name of the source of lengths
    plan: str | None = None  # name of the plan's file
    seconds: float | None = None  # that planning took
    seconds_reading: float | None = None  # that reading the lengths took
    more: Mapping[str, object] = field(default_factory=dict)  # other keys of the JSON

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        facts = {"plan": self.plan, "source": self.source, "unit": self.unit, **self.more}
        timings = {"seconds": self.seconds, "seconds_reading": self.seconds_reading}
        known = {name: value for name, value in timings.items() if value is not None}
        return facts | self.facts.as_json() | known


def plan_report(view: PlanView) -> Report:
    """Describe a plan; if it was inspected, with what to do first, shapes and costs."""
    facts, unit, file = view.facts, view.unit, view.facts.file
    measured, inspected = facts.measured, facts.inspected
    update = f"{plural(file.world_size, 'rank')} × {plural(file.accumulate, 'batch')}"
    sections = []
    if inspected is not None or measured is None:
        sections = [
            Section("What to do first", sentences=first_steps(facts, unit)),
            _coverage(facts),
        ]
    if measured is not None:
        sections += [_lengths(view, measured), _waste(facts, measured, unit)]
    if facts.dial is not None:
        sections.append(dial_section(facts.dial, note=f"Updates of {update}."))
    if inspected is not None:
        sections.append(_shapes(inspected.shapes_of_batches, unit))
        sections += _costs(inspected.step_costs, unit)
    layout = layout_line(file.layout, unit)
    rows = [{"": label, " ": figure, "  ": note} for label, figure, note in _figures(view)]
    name = Path(view.plan or "").name
    sections.append(Section(f"Plan {name}", sentences=[layout], rows=rows))
    about = f"{number(file.num_batches)} batches of {plural(file.num_samples, 'sample')}: {layout}."
    return Report(f"Plan {name}", about, view.as_json(), sections, sections)


def first_steps(facts: PlanFacts, unit: str = "tokens") -> list[str]:
    """Say what to do first about a plan, in one sentence or more, the most important first.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.stats.plan_facts import plan_facts
        >>> first_steps(plan_facts(bw.plan([4, 4], max_tokens=8), [4, 4]))
        ['Nothing to do: hardly any padding, no rank waits, updates are alike, every sample is ...
    """
    said, measured = list(_of_samples(facts, unit)), facts.measured
    fine = "hardly any padding, no rank waits, updates are alike, every sample is seen"
    if measured is None:
        said.append("Name the SOURCE that the plan was made for, to see padding, mix and balance.")
    else:
        said += [*_padding(facts, measured), *_mix(measured.stats)]
    return said or [f"Nothing to do: {fine}."]


def _of_samples(facts: PlanFacts, unit: str) -> Iterator[str]:
    """Name first what is never trained on, which is worse than waste."""
    file, dropped = facts.file, facts.file.dropped_by_reason
    parts = [f"{plural(n, 'sample')} dropped ({reason})" for reason, n in dropped.items() if n]
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
        yield (
            f"{plural(facts.truncated, 'sample')} lose {unit} to the limit of a row. "
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
            f"dispersion of {better.dispersion:.2f}."
        )
    elif within is not None and within.padding < LESS * waste:
        cure = (
            "Batches within a budget instead of a fixed size would leave "
            f"{percent(within.padding)}: --max-tokens {within.max_tokens}."
        )
    elif layout.shapes is not None:
        cure = "More shapes reduce it."
    elif layout.multiple > 1:
        cure = f"Rows are rounded up to multiples of {layout.multiple}."
    yield f"{percent(waste)} of what is computed is {facts.wasted}. {cure}"


def _mix(stats: PlanStats) -> Iterator[str]:
    """Name updates that are unlike one another, and ranks that wait."""
    if stats.dispersion > UNLIKE:
        cure = "More batches an update mix better: --step-tokens, or --accumulate."
        if stats.world_size * stats.accumulate >= 8:
            cure = "--mixing stratified or update mixes them."
        yield (
            f"Updates are unlike one another: dispersion {number(stats.dispersion)}, where a plain "
            f"shuffle has 1. {cure}"
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


def _lengths(view: PlanView, measured: Measured) -> Section:
    lengths = measured.lengths
    row = {"samples": number(lengths.num_samples), view.unit: number(lengths.num_tokens)}
    for name in ("min", "median", "mean", "p95", "max"):
        row[name] = number(getattr(lengths, name))
    title = f"Lengths of {view.source}" if view.source else "Lengths"
    return Section(title, rows=[row], histogram=lengths.histogram, unit=view.unit)


def _waste(facts: PlanFacts, measured: Measured, unit: str) -> Section:
    """Show what a plan wastes, beside other batches in the same memory."""
    waste, plain, within = measured.waste, measured.plain_batches, facts.within_budget
    kinds, note = [("this plan", waste.plan, facts.file.num_batches)], ""
    if plain is not None and waste.plain_batches is not None:
        kinds.append(("plain batches", waste.plain_batches, plain.num_batches))
        samples = plural(plain.batch_size, "random sample")
        note = f"Plain batches hold {samples}, the most that always fit."
    if within is not None:
        kinds.append(("within a budget", within.padding, within.num_batches))
        most = f"{number(within.max_tokens)} {unit}"
        note = f"Within a budget: batches of at most {most}, the size of the largest here."
    rows = [
        {"": name, facts.wasted: percent(share), "batches": number(count)}
        for name, share, count in kinds
    ]
    return Section("Waste", rows=rows, bars=[1 - share for _, share, _ in kinds], note=note)


def _shapes(shapes: ShapeStats, unit: str) -> Section:
    is_packed = shapes.kind == "packed"
    note = f"The commonest of {number(shapes.distinct)} distinct shapes."
    plots = shape_plots({"Batch shapes": shapes}, unit=unit)
    rows = []
    for each in shapes.commonest:
        columns = (each.length,) if isinstance(each.length, int) else each.length
        length = " + ".join(map(number, columns))
        rows.append(
            {
                "shape": length if is_packed else f"{number(each.rows)} × {length}",
                "batches": number(each.batches),
                "of all": percent(each.share),
                "samples": number(each.samples),
                "padding": percent(each.padding),
            }
        )
    note += (
        f" Plotted: {'samples' if is_packed else 'rows'} against length. {DOTS}" if plots else ""
    )
    return Section("Batch shapes", rows=rows, plots=plots, note=note)


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
    plot = partial(band, "Cost per step", costs.curve, up=f"padded {unit} a rank")
    plots = [plot] if costs.num_steps > 1 else []
    if plots:
        note += " Plotted: the mean, and the least to the most of ranks and steps."
    yield Section("Cost per rank and step", rows=[row], plots=plots, note=note)
    if costs.per_rank is not None and costs.world_size > 1:
        of_epoch = enumerate(map(number, costs.per_rank))
        yield Section(rows=[{"rank": str(rank), "of the epoch": cost} for rank, cost in of_epoch])


def _coverage(facts: PlanFacts) -> Section:
    """Show how often an epoch holds each sample."""
    coverage, rows = facts.file.coverage, []
    for each in coverage.times:
        said = {0: "in no batch", 1: "once"}.get(each.times, f"{number(each.times)} times")
        if each.times == coverage.most:
            said += " or more"
        share = "" if each.share is None else percent(each.share)
        rows.append({"": said, "samples": number(each.samples), "of all": share})
    return Section("Coverage", rows=rows)


def layout_line(layout: Layout, unit: str) -> str:
    """Describe how batches lie in memory.

    Example:
        >>> from batchwright.layout import Packed
        >>> layout_line(Packed(8192, multiple=16), "tokens")
        'rows packed to 8,192 tokens, samples rounded up to multiples of 16'
    """
    budget = layout.limits
    is_packed = layout.kind == "packed"
    words = ["packed rows" if is_packed else "padded batches"]
    if budget is not None:
        what = "rows packed to" if is_packed else "padded batches of at most"
        words = [f"{what} {_numbers(budget)} {unit}"]
    if layout.max_samples is not None:
        words.append(f"at most {plural(layout.max_samples, 'sample')} each")
    if layout.multiple > 1:
        what = "samples" if is_packed else "rows"
        words.append(f"{what} rounded up to multiples of {number(layout.multiple)}")
    if layout.max_length is not None:
        words.append(f"longer samples cut to {_numbers(layout.max_length)}")
    return ", ".join(words)


def _figures(view: PlanView) -> Iterator[tuple[str, str, str]]:
    """Yield the figures of a plan: what each is called, its value, and what it means."""
    file, measured = view.facts.file, view.facts.measured
    each = f"{plural(file.world_size, 'rank')} × {plural(file.accumulate, 'batch')}"
    std, most = number(file.samples_per_batch_std), number(file.samples_per_batch_max)
    yield "batches", number(file.num_batches), f"of {plural(file.num_samples, 'sample')}"
    yield "updates", number(file.num_steps), f"of {each} each"
    yield "samples a batch", number(file.samples_per_batch_mean), f"std {std}, at most {most}"
    if measured is not None:
        kind = "row length" if file.layout.kind == "packed" else "batch shape"
        yield "shapes", number(measured.stats.shapes), f"distinct {kind}s"
        yield from _measured_figures(measured.stats, view.unit)
    limit = _numbers(file.layout.max_length or 0)
    reasons = {"oversize": "longer than the budget"}
    lost = [
        *(("dropped", n, reasons.get(why, why)) for why, n in file.dropped_by_reason.items()),
        ("absent", file.absent or 0, "samples in no batch"),
        ("repeated", file.repeated, "samples beyond their first time"),
        ("truncated", view.facts.truncated, f"samples, to {limit}"),
        ("split", view.facts.split, f"samples, into pieces of {limit}"),
    ]
    yield from ((label, number(count), note) for label, count, note in lost if count)
    if file.absent is not None and not any(count for _, count, _ in lost):
        yield "dropped", "0", "every sample is in the plan, exactly once"
    yield "seed", str(file.seed), f"epoch {file.epoch}"
    if measured is None and file.num_lengths is not None:
        yield "made for", number(file.num_lengths), f"lengths of fingerprint {file.fingerprint}"
    if view.seconds is not None:
        reading = f"and {duration(view.seconds_reading or 0)} to read the lengths"
        yield "planned in", duration(view.seconds), reading


def _measured_figures(stats: PlanStats, unit: str) -> Iterator[tuple[str, str, str]]:
    real = f"{number(stats.num_tokens)} of {number(stats.padded_tokens)} {unit} are real"
    largest = f"{unit}, padding included"
    if stats.budget is not None:
        share = percent(stats.max_batch_tokens / stats.budget)
        largest = f"{unit}, {share} of the budget of {number(stats.budget)}"
    more = stats.num_batches - stats.lower_bound
    gap = "no plan of these samples has fewer batches"
    if more:
        gap = f"batches at least; this plan has {number(more)} more ({percent(stats.gap)})"
    yield "efficiency", percent(stats.efficiency), real
    yield "largest batch", number(stats.max_batch_tokens), largest
    if stats.fill is not None:
        yield "fill", percent(stats.fill), "of the budget, on average"
    yield "lower bound", number(stats.lower_bound), gap
    yield (
        "update size",
        number(stats.step_tokens_mean),
        f"{unit}, std {number(stats.step_tokens_std)}",
    )
    mix = "as even as a plain shuffle, which is 1"
    if stats.num_steps == 1:
        mix = "a single update: nothing to compare"
    elif stats.dispersion < 0.9:
        mix = "more even than a plain shuffle, which is 1"
    elif stats.dispersion > 1.1:
        mix = "less even than a plain shuffle, which is 1; more batches an update mix better"
    yield "dispersion", number(stats.dispersion), mix
    if stats.world_size > 1:
        note = f"slowest over mean rank; {stats.imbalance_quadratic:.3f} in squared lengths"
        yield "rank imbalance", f"{stats.imbalance_padded:.3f}", note


def _numbers(values: int | Sequence[int]) -> str:
    return number(values) if isinstance(values, int) else " and ".join(map(number, values))
