"""A report is a list of sections; `page` renders it as HTML, `text.print_sections` as text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import sqrt
from pathlib import Path

from batchwright._format import all_printable, number, percent
from batchwright.errors import MissingExtraError
from batchwright.report.plots import dial_points, dots, steps
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import Histogram
from batchwright.stats.shapes import ShapeStats

Plot = Callable[[], str]
"""Draws an SVG."""

DOTS = "A dot is larger where more batches have about that shape."

_FEW_SHAPES = 3  # fewer are shown by a table alone


@dataclass(frozen=True)
class Card:
    """A piece of advice: its verdict, the technique, and the reason."""

    verdict: str
    technique: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a report; what is empty is left out, and so is one without content."""

    title: str = ""
    sentences: Sequence[str] = ()
    cards: Sequence[Card] = ()
    rows: Sequence[Mapping[str, str]] = ()  # a table: heading → cell, the same headings in each row
    bars: Sequence[float] = ()  # the share of each row, from 0 to 1
    histogram: Histogram | None = None  # not drawn where all lengths are equal
    unit: str = "tokens"  # of the histogram
    plots: Sequence[Plot] = ()  # of pages only
    code: Sequence[str] = ()  # lines to paste
    note: str = ""  # in small print

    @property
    def has_content(self) -> bool:
        """Whether there is more than a title and a note."""
        parts = (self.sentences, self.cards, self.rows, self.plots, self.code)
        return any(parts) or self.histogram is not None


@dataclass(frozen=True)
class Report:
    """What a command shows."""

    title: str
    about: str  # below the title
    facts: object  # what `--json` prints
    sections: Sequence[Section]  # of the page
    printed: Sequence[Section]  # in a terminal


def import_page_packages() -> None:
    """Import what pages need; raise `MissingExtraError` where that is not installed."""
    try:
        import jinja2  # noqa: F401 -- whether it is installed
        import matplotlib as mpl  # noqa: F401 -- whether it is installed
    except ImportError as error:
        raise MissingExtraError(
            f"A page needs the package {error.name}, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error


def page(report: Report) -> str:
    """Write a report as a page that loads nothing, and is legible on a phone and in the dark.

    Guarantees that text is escaped and `printable`, and that the facts are in the page, as JSON in
    the element ``#facts``.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.

    Example:
        >>> section = Section(sentences=["a < b"])
        >>> "<li>a &lt; b</li>" in page(Report("Title", "", {}, [section], []))
        True
    """
    import_page_packages()
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        title=all_printable(report.title),
        about=all_printable(report.about),
        sections=all_printable([each for each in report.sections if each.has_content]),
        # Inside of a script only its end tag has to be escaped.
        facts=json.dumps(report.facts, allow_nan=False).replace("<", "\\u003c"),
        steps=steps,
    )


def dial_section(positions: Sequence[DialPosition], *, note: str) -> Section:
    """Show the positions of the mixing dial; `note` describes the updates."""
    none = "No position can be planned: there are too few samples for such updates."
    rows = [
        {
            "mixing": str(each.mixing),
            "padding": percent(1 - each.efficiency),
            "dispersion": f"{each.dispersion:.2f}",
            "variety": "" if each.variety is None else f"{each.variety:.2f}",
            "batches": number(each.num_batches),
        }
        for each in positions
    ]
    return Section(
        "Mixing dial",
        sentences=[] if positions else [none],
        rows=rows,
        bars=[each.efficiency for each in positions],
        plots=[partial(dial_points, "Mixing dial", positions)] if positions else [],
        note=(
            f"{note} Dispersion: 1 is a plain shuffle, less is more even. Variety: the samples "
            "that share a batch with a sample over 8 epochs, relative to a plain shuffle."
        ),
    )


def shape_plots(plans: Mapping[str, ShapeStats], *, unit: str = "tokens") -> list[Plot]:
    """Draw rows against length; equal shapes are drawn once, few ones not at all."""
    alike: dict[ShapeStats, list[str]] = {}
    for title, shapes in plans.items():
        alike.setdefault(shapes, []).append(title)
    plots: list[Plot] = []
    for shapes, titles in alike.items():
        across, up = (
            [sqrt(low * (high - 1)) for low, high in pairwise(edges)]  # middles of bins
            for edges in (shapes.grid.lengths, shapes.grid.rows)
        )
        points = [(across[x], up[y], count) for x, y, count in shapes.grid.cells]
        title = titles[0] if len(titles) == 1 else f"{titles[0]} and {len(titles) - 1} more"
        what = "samples" if shapes.kind == "packed" else "rows"
        if shapes.distinct >= _FEW_SHAPES:
            plots.append(partial(dots, title, points, across=f"{unit} of a row", up=what))
    return plots
