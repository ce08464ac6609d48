"""What `plan` and `inspect` show of a plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from batchwright._format import number, percent, plural
from batchwright.layout import Layout
from batchwright.report.plan_texts import (
    comparison,
    conflict,
    first_steps,
    of_samples,
    outliers,
)
from batchwright.report.plots import FAR, Tail, band
from batchwright.report.sections import (
    DOTS,
    Bar,
    Head,
    Picture,
    Report,
    Section,
    dial_section,
    shape_plots,
)
from batchwright.stats.plan_facts import Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats
from batchwright.stats.shapes import ShapeStats, StepCosts

_ALIKE = 2  # different costs of steps; only of more they are plotted
SMALL = 0.8  # batches that fill less of the budget were not to be as few as possible


@dataclass(frozen=True)
class PlanView:
    """What `plan` and `inspect` show."""

    facts: PlanFacts  # of the plan
    unit: str = "tokens"  # what lengths count
    source: str | None = None  # name of the source of lengths
    plan: str | None = None  # name of the plan's file
    seconds: float | None = None  # that planning took
    seconds_reading: float | None = None  # that reading the lengths took
    code: str = ""  # a planner of such plans, in Python
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
    steps = first_steps(facts, unit)
    layout, name = layout_line(file.layout, unit), Path(view.plan or "").name
    rows = [{"": label, " ": figure, "  ": note} for label, figure, note in _figures(view)]
    figures = Section(f"Plan {name}".rstrip(), sentences=[layout], rows=rows)
    beside = [] if measured is None else [_lengths(view, measured), _batches(facts, measured)]
    dial, more, head = [], [], None
    if facts.dial is not None:
        update = f"{plural(file.world_size, 'rank')} × {plural(file.accumulate, 'batch')}"
        note = f"Updates of {update}; means of three epochs, of which a plan is one."
        dial = [dial_section(facts.dial, note=note)]
    if inspected is not None:
        more = [_shapes(inspected.shapes_of_batches, unit), *_costs(inspected.step_costs, unit)]
    has_baseline = measured is not None and measured.plain_batches is not None
    # Without one it says what the first step says.
    said = list(comparison(facts, unit)) if has_baseline or inspected is None else []
    # The last line of a terminal is where the eye is.
    if measured is None or inspected is not None:
        head = Head(steps[0], "What to do first:", picture=_waste(facts, unit))
        bare = replace(figures, sentences=[])  # `about` says it
        printed = [*beside[1:], *dial, bare, Section(sentences=[*steps[1:], *said])]
    else:
        said = [*of_samples(facts, unit), *conflict(facts), *said]
        plan = Section(code=[view.code]) if view.code else Section(sentences=[layout])
        printed = [*beside, plan, Section(sentences=said)]
    sections = [
        Section("Then", sentences=steps[1:]),
        Section(sentences=said),
        *beside,
        _coverage(facts),
        *(replace(each, is_folded=True) for each in (*dial, *more, figures)),
    ]
    about = f"{number(file.num_batches)} batches of {plural(file.num_samples, 'sample')}: {layout}."
    return Report(f"Plan {name}", about, view.as_json(), sections, printed, head)


def _waste(facts: PlanFacts, unit: str) -> Picture | None:
    """Draw what is computed for the same samples: in the batches of today, and in a plan."""
    measured = facts.measured
    if measured is None or facts.wasted != "padding":
        return None
    plain = measured.plain_batches
    shares = {"this plan": measured.waste.plan}
    if plain is not None:
        whose = "random batches" if plain.assumed else "your batches"
        before = {f"{whose} of {number(plain.batch_size)}": 1 - plain.efficiency}
        shares = before | shares
    if not any(shares.values()):
        return None
    bars = [
        Bar(name, f"{percent(share)} padding", 1.0, share / (1 - share))
        for name, share in shares.items()
    ]
    return Picture(bars, f"real {unit}", "padding: computed for nothing")


def _lengths(view: PlanView, measured: Measured) -> Section:
    lengths, budgets = measured.lengths, measured.budgets
    row = {"samples": number(lengths.num_samples), view.unit: number(lengths.num_tokens)}
    for name in ("median", "mean", "p95"):
        row[name] = number(getattr(lengths, name))
    row |= {"p99.9": number(budgets.p999), "longest": number(lengths.max)}
    title = f"Lengths of {view.source}" if view.source else "Lengths"
    note = outliers(view.facts, view.unit)
    longer = "longer than 99.9 % of samples"
    tail = Tail(budgets.p999, longer) if lengths.max >= FAR * budgets.p999 else None
    return Section(
        title, rows=[row], histogram=lengths.histogram, tail=tail, unit=view.unit, note=note
    )


def _batches(facts: PlanFacts, measured: Measured) -> Section:
    """Show a plan beside the batches of today, and beside smaller ones."""
    plain, smaller, within = measured.plain_batches, measured.smaller_batches, facts.within_budget
    kinds: list[tuple[str, float, float | None, int, int | None]] = []
    if plain is not None:
        whose = "assumed" if plain.assumed else "yours"
        name = f"{whose}, {plural(plain.batch_size, 'sample')} each"
        largest, mix = plain.max_batch_tokens, plain.dispersion
        kinds.append((name, 1 - plain.efficiency, mix, plain.num_batches, largest))
    stats = measured.stats
    plan = (measured.waste.plan, stats.dispersion, stats.num_batches, stats.max_batch_tokens)
    kinds.append(("this plan", *plan))
    if smaller is not None:
        name = f"cut into {smaller.accumulate * stats.world_size} an update"
        largest, mix = smaller.max_batch_tokens, smaller.dispersion
        kinds.append((name, 1 - smaller.efficiency, mix, smaller.num_batches, largest))
    if within is not None:
        kinds.append(
            ("within a budget", within.padding, None, within.num_batches, within.max_tokens)
        )
    rows = [
        {
            "": name,
            facts.wasted: percent(share),
            "length mix": "" if mix is None else f"{mix:.2f}",
            "batches": number(count),
            "largest": "" if largest is None else number(largest),
        }
        for name, share, mix, count, largest in kinds
    ]
    note = "Length mix of updates: 1 is a plain shuffle, less is more even."
    if any(conflict(facts)):
        note = ""  # it is said there
    bars = [1 - share for _, share, *_ in kinds]
    return Section("Batches", rows=rows, bars=bars, note=note)


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
    # Where all steps are alike, one may be a short one.
    plots = [plot] if len({*costs.curve.least, *costs.curve.most}) > _ALIKE else []
    if plots:
        note += " Plotted: the mean, and the least to the most of ranks and steps."
    yield Section("Cost per rank and step", rows=[row], plots=plots, note=note)
    if costs.per_rank is not None and costs.world_size > 1:
        of_epoch = enumerate(map(number, costs.per_rank))
        rows = [{"rank": str(rank), "of the epoch": cost} for rank, cost in of_epoch]
        yield Section("Cost per rank", rows=rows)


def _coverage(facts: PlanFacts) -> Section:
    """Show how often an epoch holds each sample."""
    coverage, rows = facts.file.coverage, []
    if [each.times for each in coverage.times] == [1]:
        return Section()
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
    reasons = {"oversize": "longer than the budget", "empty": "empty samples"}
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


def _measured_figures(stats: PlanStats, unit: str) -> Iterator[tuple[str, str, str]]:
    step = round(stats.step_tokens_mean)
    real = f"{number(stats.num_tokens)} of {number(stats.padded_tokens)} {unit} are real"
    largest = f"{unit}, padding included"
    if stats.budget is not None:
        share = percent(stats.max_batch_tokens / stats.budget)
        largest = f"{unit}, {share} of the budget of {number(stats.budget)}"
    more = stats.num_batches - stats.lower_bound
    gap = "no plan of these samples has fewer batches"
    if stats.fill is not None and stats.fill < SMALL:
        gap = f"full batches would do; these are smaller, for updates of {number(step)} {unit}"
    elif more:
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
    mix = "of updates: as even as a plain shuffle, which is 1"
    if stats.num_steps == 1:
        mix = "a single update: nothing to compare"
    elif stats.dispersion < 0.9:
        mix = "of updates: more even than a plain shuffle, which is 1"
    elif stats.dispersion > 1.1:
        mix = "of updates: less even than a plain shuffle, which is 1"
    yield "length mix", number(stats.dispersion), mix
    if stats.world_size > 1:
        note = f"slowest over mean rank; {stats.imbalance_quadratic:.3f} in squared lengths"
        yield "rank imbalance", f"{stats.imbalance_padded:.3f}", note


def _numbers(values: int | Sequence[int]) -> str:
    return number(values) if isinstance(values, int) else " and ".join(map(number, values))
