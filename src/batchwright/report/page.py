"""One self-contained HTML page: sections of sentences, tables, plots and code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from batchwright._format import all_printable, printable, printable_lines
from batchwright.errors import MissingExtraError
from batchwright.report.plots import bars, dial_points, dots, steps
from batchwright.report.rows import dial_row
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import Histogram
from batchwright.stats.shapes import ShapeStats

_TEMPLATE = Path(__file__).with_name("page.html.j2")

DOTS = "A dot is larger where more batches have about that shape."

_FEW_SHAPES = 3
"""Fewer shapes are shown by a table alone."""

_LITTLE_WASTE = 0.001


@dataclass(frozen=True)
class Card:
    """A piece of advice: its verdict, the technique, and the reason."""

    verdict: str
    technique: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page; what is empty is left out."""

    title: str = ""
    sentences: Sequence[str] = ()  # a list
    cards: Sequence[Card] = ()
    rows: Sequence[Mapping[str, str]] = ()  # a table: heading → cell, the same headings in each row
    plots: Sequence[str] = ()  # SVG
    code: str = ""  # to paste
    note: str = ""  # in small print
    is_wrapped: bool = False  # whether the last column is text that may take several lines


def page(
    title: str, sections: Sequence[Section], facts: Mapping[str, Any], *, about: str = ""
) -> str:
    """Write a page that loads nothing, and is legible on a phone and in the dark.

    Guarantees that text is escaped and `printable`, and that `facts` are in the page, as JSON in
    the element ``#facts``.

    Args:
        title: Of the page.
        sections: In sequence.
        facts: What `--json` prints.
        about: Below the title.

    Raises:
        MissingExtraError: Without jinja2.

    Example:
        >>> "<li>a &lt; b</li>" in page("Title", [Section(sentences=["a < b"])], {})
        True
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError(
            "A page needs the package jinja2, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    # Inside of a script only its end tag has to be escaped.
    embedded = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    shown = [
        all_printable(asdict(section))
        | {
            "plots": [Markup(plot) for plot in section.plots],  # noqa: S704 -- made by `plots`
            "code": printable_lines(section.code),
        }
        for section in sections
    ]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=printable(title),
        about=printable(about),
        facts=Markup(embedded),  # noqa: S704 -- JSON without any <
        sections=shown,
    )


def length_plots(histogram: Histogram, *, unit: str) -> list[str]:
    """Draw lengths, unless all are equal."""
    if histogram.edges[-1] - histogram.edges[0] == 1:
        return []
    return [steps("Lengths", histogram.edges, histogram.counts, across=unit)]


def waste_plots(shares: Mapping[str, float], *, what: str = "padding") -> list[str]:
    """Draw the share that each way to make batches wastes, unless none wastes anything."""
    if max(shares.values(), default=0.0) < _LITTLE_WASTE:
        return []
    return [bars("Waste", shares, across=what)]


def dial_section(positions: Sequence[DialPosition], *, note: str) -> Section:
    """Show the positions of the mixing dial; `note` describes the updates."""
    return Section(
        "Mixing dial",
        rows=[dial_row(each) for each in positions],
        plots=[dial_points(positions)],
        note=f"{note} Dispersion: 1 is a plain shuffle, less is more even.",
    )


def shape_plots(
    plans: Mapping[str, ShapeStats], *, unit: str = "tokens", before: str = ""
) -> list[str]:
    """Draw rows against length: the more batches, the larger the dot.

    Args:
        plans: Title → its shapes. Equal ones are drawn once, few ones not at all.
        unit: What lengths count.
        before: Words before each title.
    """
    alike: list[tuple[ShapeStats, list[str]]] = []
    for title, shapes in plans.items():
        known = next((titles for each, titles in alike if each == shapes), None)
        if known is not None:
            known.append(title)
        elif shapes.distinct >= _FEW_SHAPES:
            alike.append((shapes, [title]))
    return [_dots(shapes, before + _together(titles), unit) for shapes, titles in alike]


def _dots(shapes: ShapeStats, title: str, unit: str) -> str:
    grid = shapes.grid
    points = [
        (_middle(grid.lengths, across), _middle(grid.rows, up), count)
        for across, up, count in grid.cells
    ]
    up = "samples" if shapes.kind == "packed" else "rows"
    return dots(title, points, across=f"{unit} of a row", up=up)


def _middle(edges: Sequence[int], place: int) -> float:
    """Return the middle of a bin on a logarithmic axis."""
    return sqrt(edges[place] * (edges[place + 1] - 1))


def _together(titles: Sequence[str]) -> str:
    first, *others = titles
    if len(others) < 2:
        return ", ".join(titles)
    return f"{first} and {len(others)} others"
