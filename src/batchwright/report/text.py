"""The report of a plan for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchwright._format import number, one_line, percent, plural, short
from batchwright.report.rows import (
    SUMMARY,
    Glyphs,
    PlanView,
    Row,
    control_line,
    dial_row,
    layout_line,
    plan_rows,
    waste_of,
)
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import Histogram, LengthStats
from batchwright.stats.plan_facts import Measured, PlanFacts

_WIDEST = 96
_NARROWEST = 60
_MARGIN = 2
_CURVE_ROWS = 5
_SHORTEST_BAR = 8
_DIAL_BAR = 24
_GAP = 2


def fitting(width: int) -> int:
    """Return how wide a report is in a terminal of `width` columns: from 60 to 96."""
    return min(max(width, _NARROWEST), _WIDEST)


def plan_report(view: PlanView, *, glyphs: Glyphs, width: int) -> RenderableType:
    """Lay out the report of a plan, for rich to print.

    Args:
        view: What to show.
        glyphs: The characters to draw with.
        width: Columns, at least 60.
    """
    facts = view.facts
    parts: list[RenderableType] = []
    if facts.measured is not None:
        inner = width - 2 * _MARGIN
        parts = [
            _title("Lengths", view.source or ""),
            *_lengths(facts.measured.lengths, view.unit, inner),
            *_curve(facts.measured.lengths.histogram, glyphs, inner),
            Text(),
            _title("Waste", control_line(facts, facts.measured, view.unit)),
            _waste(facts, facts.measured, glyphs, inner),
            Text(),
        ]
    named = [view.plan] if view.plan else []
    about = f" {glyphs.dot} ".join([*named, layout_line(facts.file.layout, view.unit)])
    parts += [_title("Plan", about), _rows(plan_rows(view, glyphs))]
    if facts.dial is not None:
        parts += [Text(), _title("Mixing dial", "efficiency, and how unlike updates are")]
        parts.append(_dial(facts.dial, glyphs))
    return Padding(Group(*parts), (1, _MARGIN))


def _dial(positions: Sequence[DialPosition], glyphs: Glyphs) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    table.add_column("mixing", no_wrap=True)
    table.add_column("padding", justify="right")
    table.add_column("")
    table.add_column("dispersion", justify="right")
    table.add_column("batches", justify="right")
    most = max((1 - each.efficiency for each in positions), default=0.0)
    for each in positions:
        drawn, _ = glyphs.bar((1 - each.efficiency) / most if most else 0.0, _DIAL_BAR)
        mixing, padding, dispersion, batches = dial_row(each).values()
        table.add_row(mixing, padding, Text(drawn, style="yellow"), dispersion, batches)
    table.caption = "dispersion: 1 is a plain shuffle, less is more even"
    if not positions:
        table.caption = "no position can be planned: there are too few samples for such updates"
    table.caption_justify = "left"
    return table


def _title(word: str, about: str) -> Text:
    return Text.assemble(
        (word, "bold cyan"), "  " if about else "", one_line(about), overflow="fold"
    )


def _lengths(summary: LengthStats, unit: str, width: int) -> list[Table]:
    columns = [
        ("samples", number(summary.num_samples)),
        (unit, number(summary.num_tokens)),
        *((name, number(getattr(summary, name))) for name in SUMMARY),
    ]
    if sum(max(map(len, column)) + _GAP for column in columns) - _GAP > width:
        return [_figures(columns[:2]), _figures(columns[2:])]
    return [_figures(columns)]


def _figures(columns: list[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for name, _ in columns:
        table.add_column(name, justify="right", overflow="fold")
    table.add_row(*(figure for _, figure in columns), style="bold")
    return table


def _curve(histogram: Histogram, glyphs: Glyphs, width: int) -> list[Text]:
    if histogram.edges[-1] - histogram.edges[0] == 1:
        return []  # all samples are equally long
    lines = glyphs.curve(histogram.heights(width), _CURVE_ROWS)
    return [
        *(Text(line, style="cyan", no_wrap=True) for line in lines),
        Text(_axis(histogram, width), style="dim", no_wrap=True),
    ]


def _axis(histogram: Histogram, width: int) -> str:
    """Write round lengths below the curve, as many as there is room for."""
    first, last = histogram.edges[0], histogram.edges[-1] - 1
    powers = [10**exponent for exponent in range(len(str(last)))]
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * power for power in powers for factor in factors]
        labels = [
            (min(int(histogram.position(tick) * width), width - len(short(tick))), short(tick))
            for tick in ticks
            if first <= tick <= last
        ]
        ends = [place + len(label) for place, label in labels]
        if all(end < place for end, (place, _) in zip(ends, labels[1:], strict=False)):
            break
    line = ""
    for place, label in labels:
        if not line or place > len(line):
            line = line.ljust(place) + label
    return line


def _waste(facts: PlanFacts, measured: Measured, glyphs: Glyphs, width: int) -> Table:
    bars = waste_of(facts, measured)
    columns = [
        [name for name, _, _ in bars],
        [f"{percent(share)} {facts.wasted}" for _, share, _ in bars],
        [plural(count, "batch") for _, _, count in bars],
    ]
    room = width - sum(max(map(len, column)) + _GAP for column in columns)
    if room < _SHORTEST_BAR:
        room += max(map(len, columns.pop())) + _GAP
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    for (_, share, _), (name, *notes) in zip(bars, zip(*columns, strict=True), strict=True):
        real, rest = glyphs.bar(1 - share, room)
        table.add_row(name, Text.assemble((real, "cyan"), (rest, "dim")), *notes)
    return table


def _rows(groups: list[list[Row]]) -> Table:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(overflow="fold", style="dim")
    for group in groups:
        if group is not groups[0]:
            table.add_row()
        for row in group:
            table.add_row(*(Text(one_line(part)) for part in row))
    return table
