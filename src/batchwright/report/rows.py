"""What `plan` and `inspect` show: a value, its figures as rows of text, characters to draw with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batchwright._format import duration, number, percent, plural
from batchwright.layout import Layout
from batchwright.stats.dial import DialPosition
from batchwright.stats.plan_facts import Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats
from batchwright.typing import FloatArray

_EVEN = 0.9
_UNEVEN = 1.1

_REASONS = {"oversize": "longer than the budget"}

SUMMARY = ("min", "median", "mean", "p95", "max")


@dataclass(frozen=True)
class PlanView:
    """What `plan` and `inspect` show."""

    facts: PlanFacts  # of the plan
    unit: str = "tokens"  # what lengths count
    source: str | None = None  # name of the source of lengths
    plan: str | None = None  # name of the plan's file
    seconds: float | None = None  # that planning took
    seconds_reading: float | None = None  # that reading the lengths took
    more: Mapping[str, Any] = field(default_factory=dict)  # other keys of the JSON

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        timings = {"seconds": self.seconds, "seconds_reading": self.seconds_reading}
        return {
            "plan": self.plan,
            "source": self.source,
            "unit": self.unit,
            **self.more,
            **self.facts.as_json(),
            **{name: value for name, value in timings.items() if value is not None},
        }


class Row(NamedTuple):
    """One figure: what it is called, its value, and what it means."""

    label: str
    figure: str
    note: str = ""


@dataclass(frozen=True)
class Glyphs:
    """Characters to draw with."""

    rising: str  # cells from empty to full, filled from below
    filling: str  # cells filled from the left
    rest: str  # the part of a bar that is not filled
    times: str  # multiplied by
    spread: str  # plus or minus
    dot: str  # between words of one line

    def bar(self, share: float, width: int) -> tuple[str, str]:
        """Draw a share as a bar of `width` characters: the filled part, and the rest.

        Only a share of 1 fills all of it, and only a share of 0 nothing.

        Example:
            >>> ASCII.bar(0.75, 8)
            ('######', '..')
        """
        fine = len(self.filling) - 1
        filled = int(share * width * fine)
        if 0 < share < 1:
            filled = min(max(filled, 1), width * fine - 1)
        whole, part = divmod(filled, fine)
        drawn = self.filling[-1] * whole + (self.filling[part] if part else "")
        return drawn, self.rest * (width - len(drawn))

    def curve(self, heights: FloatArray, rows: int) -> list[str]:
        """Draw heights from 0 to 1 as columns, in lines from the top; only 0 is left empty.

        Example:
            >>> import numpy as np
            >>> ASCII.curve(np.array([0.0, 0.5, 1.0]), 2)
            ['  #', ' ##']
        """
        fine = len(self.rising) - 1
        filled = [max(round(height * rows * fine), height > 0) for height in heights.tolist()]
        return [
            "".join(self.rising[min(max(level - row * fine, 0), fine)] for level in filled)
            for row in reversed(range(rows))
        ]


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", " ▏▎▍▌▋▊▉█", "░", "×", "±", "·")
ASCII = Glyphs(" .:#", " #", ".", "x", "+-", "-")


def glyphs_for(encoding: str) -> Glyphs:
    """Return `UNICODE` where an encoding has all of it, else `ASCII`.

    Example:
        >>> glyphs_for("utf-8") is UNICODE, glyphs_for("latin-1") is ASCII
        (True, True)
    """
    everything = "".join(vars(UNICODE).values())
    try:
        everything.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def layout_line(layout: Layout, unit: str) -> str:
    """Describe how batches lie in memory.

    Example:
        >>> layout_line(Layout("packed", 8192, multiple=16), "tokens")
        'rows packed to 8,192 tokens, samples rounded up to multiples of 16'
    """
    words = []
    budget = layout.budget if layout.caps is None else layout.caps
    is_packed = layout.kind == "packed"
    if budget is None:
        words.append("packed rows" if is_packed else "padded batches")
    else:
        what = "rows packed to" if is_packed else "padded batches of at most"
        words.append(f"{what} {_numbers(budget)} {unit}")
    if layout.max_samples is not None:
        words.append(f"at most {plural(layout.max_samples, 'sample')} each")
    if layout.multiple > 1:
        what = "samples" if is_packed else "rows"
        words.append(f"{what} rounded up to multiples of {number(layout.multiple)}")
    if layout.max_length is not None:
        words.append(f"longer samples cut to {_numbers(layout.max_length)}")
    return ", ".join(words)


def plan_rows(view: PlanView, glyphs: Glyphs) -> list[list[Row]]:
    """Write the figures of a plan, in groups."""
    groups = [_batch_rows(view.facts, glyphs)]
    if view.facts.measured is not None:
        stats = view.facts.measured.stats
        groups += [_budget_rows(stats, view.unit), _mix_rows(stats, view.unit, glyphs)]
    return [*groups, [*_loss_rows(view.facts), *_origin_rows(view)]]


def _batch_rows(facts: PlanFacts, glyphs: Glyphs) -> list[Row]:
    file = facts.file
    each = f"{plural(file.world_size, 'rank')} {glyphs.times} {plural(file.accumulate, 'batch')}"
    most = f"at most {number(file.samples_per_batch_max)}"
    spread = f"{glyphs.spread} {number(file.samples_per_batch_std)}, {most}"
    rows = [
        Row("batches", number(file.num_batches), f"of {plural(file.num_samples, 'sample')}"),
        Row("updates", number(file.num_steps), f"of {each} each"),
        Row("samples a batch", number(file.samples_per_batch_mean), spread),
    ]
    if facts.measured is not None:
        kind = "row length" if file.layout.kind == "packed" else "batch shape"
        rows.append(Row("shapes", number(facts.measured.stats.shapes), f"distinct {kind}s"))
    return rows


def _budget_rows(stats: PlanStats, unit: str) -> list[Row]:
    real = f"{number(stats.num_tokens)} of {number(stats.padded_tokens)} {unit} are real"
    largest = f"{unit}, padding included"
    if stats.budget is not None:
        share = percent(stats.max_batch_tokens / stats.budget)
        largest = f"{unit}, {share} of the budget of {number(stats.budget)}"
    more = stats.num_batches - stats.lower_bound
    gap = "no plan of these samples has fewer batches"
    if more:
        gap = f"batches at least; this plan has {number(more)} more ({percent(stats.gap)})"
    rows = [
        Row("efficiency", percent(stats.efficiency), real),
        Row("largest batch", number(stats.max_batch_tokens), largest),
        Row("lower bound", number(stats.lower_bound), gap),
    ]
    if stats.fill is not None:
        rows.insert(2, Row("fill", percent(stats.fill), "of the budget, on average"))
    return rows


def _mix_rows(stats: PlanStats, unit: str, glyphs: Glyphs) -> list[Row]:
    spread = f"{glyphs.spread} {number(stats.step_tokens_std)} {unit}"
    rows = [
        Row("update size", number(stats.step_tokens_mean), spread),
        Row("dispersion", number(stats.dispersion), _mix(stats)),
    ]
    if stats.world_size > 1:
        squared = f"{stats.imbalance_quadratic:.3f}"
        note = f"slowest over mean rank; {squared} in squared lengths"
        rows.append(Row("rank imbalance", f"{stats.imbalance_padded:.3f}", note))
    return rows


def _mix(stats: PlanStats) -> str:
    if stats.num_steps == 1:
        return "a single update: nothing to compare"
    if stats.dispersion < _EVEN:
        return "more even than a plain shuffle, which is 1"
    if stats.dispersion <= _UNEVEN:
        return "as even as a plain shuffle, which is 1"
    return "less even than a plain shuffle, which is 1; more batches an update mix better"


def _loss_rows(facts: PlanFacts) -> list[Row]:
    """Write what was left out, repeated or cut, and why; or that nothing was."""
    file = facts.file
    limit = _numbers(file.layout.max_length or 0)
    dropped = file.dropped_by_reason.items()
    rows = [
        *(Row("dropped", number(count), _REASONS.get(reason, reason)) for reason, count in dropped),
        Row("absent", number(file.absent or 0), "samples in no batch"),
        Row("repeated", number(file.repeated), "samples beyond their first time"),
        Row("truncated", number(facts.truncated), f"samples, to {limit}"),
        Row("split", number(facts.split), f"samples, into pieces of {limit}"),
    ]
    lost = [row for row in rows if row.figure != "0"]
    if lost or file.absent is None:
        return lost
    return [Row("dropped", "0", "every sample is in the plan, exactly once")]


def _origin_rows(view: PlanView) -> list[Row]:
    file = view.facts.file
    rows = [Row("seed", str(file.seed), f"epoch {file.epoch}")]
    if view.facts.measured is None and file.num_lengths is not None:
        about = f"lengths of fingerprint {file.fingerprint}"
        rows.append(Row("made for", number(file.num_lengths), about))
    if view.seconds is not None:
        reading = f"and {duration(view.seconds_reading or 0)} to read the lengths"
        rows.append(Row("planned in", duration(view.seconds), reading))
    return rows


def _numbers(values: int | Sequence[int]) -> str:
    return number(values) if isinstance(values, int) else " and ".join(map(number, values))


def waste_of(facts: PlanFacts, measured: Measured) -> list[tuple[str, float, int]]:
    """Return the names of this plan and of its controls, what each wastes, and its batches."""
    waste, plain = measured.waste, measured.plain_batches
    kinds = [("this plan", waste.plan, facts.file.num_batches)]
    if plain is not None and waste.plain_batches is not None:
        kinds.append(("plain batches", waste.plain_batches, plain.num_batches))
    if facts.within_budget is not None:
        within = facts.within_budget
        kinds.append(("within a budget", within.padding, within.num_batches))
    return kinds


def control_line(facts: PlanFacts, measured: Measured, unit: str) -> str:
    """Describe the control, if there is one."""
    if measured.plain_batches is not None:
        samples = plural(measured.plain_batches.batch_size, "random sample")
        return f"Plain batches hold {samples}, the most that always fit."
    if facts.within_budget is not None:
        most = number(facts.within_budget.max_tokens)
        return f"Within a budget: batches of at most {most} {unit}, the size of the largest here."
    return ""


def dial_row(position: DialPosition) -> dict[str, str]:
    """Write a position of the dial."""
    return {
        "mixing": str(position.mixing),
        "padding": percent(1 - position.efficiency),
        "dispersion": f"{position.dispersion:.2f}",
        "batches": number(position.num_batches),
    }
